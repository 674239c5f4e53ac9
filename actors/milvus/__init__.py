"""The store on Milvus, an embedded folder or a server. Whatever touches Milvus is here."""
