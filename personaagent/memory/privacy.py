"""Optional protection of what users write: redaction of personal data before anything is stored, and encryption at rest.

Both use well-kept libraries from the `privacy` extra (Presidio, cryptography); no cryptography of our own. Redaction finds
what has a form (e-mail, phone, card, IBAN, IP and web addresses, ...), not names: those would need a language model on every
write. Encryption covers texts (payloads, and what stands with them), not the embeddings of queries and answers: similarity
search needs them as they are, and embeddings reveal something of the text they were made from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import SecretStr

from personaagent.claims import render, rendered
from personaagent.errors import InvalidInput, StoreError
from personaagent.types import Interaction, Persona, Profile

__all__ = ["Cipher", "Redactor", "redacted_persona", "redacted_profile"]

EXTRA = "install the extra: pip install 'personaagent[privacy]'"


class Redactor:
    """Replaces personal data in texts by its kind, as in `<EMAIL_ADDRESS>`."""

    def __init__(self) -> None:
        """Raises InvalidInput if the `privacy` extra is not installed."""
        try:
            import spacy
            from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
            from presidio_analyzer.nlp_engine import SpacyNlpEngine
            from presidio_anonymizer import AnonymizerEngine
        except ImportError as e:
            raise InvalidInput(f"memory.redact needs Presidio; {EXTRA}") from e

        class Blank(SpacyNlpEngine):  # type: ignore[misc]
            """Tokens only: the pattern recognisers need no trained model, and none is downloaded."""

            def __init__(self) -> None:
                super().__init__(models=[{"lang_code": "en", "model_name": "blank"}])
                self.nlp = {"en": spacy.blank("en")}

            def load(self) -> None:
                """Nothing to load."""

        registry = RecognizerRegistry()
        registry.load_predefined_recognizers(languages=["en"])
        registry.remove_recognizer("SpacyRecognizer")
        self._analyzer: Any = AnalyzerEngine(nlp_engine=Blank(), registry=registry, supported_languages=["en"])
        self._anonymizer: Any = AnonymizerEngine()

    def text(self, text: str) -> str:
        """`text` with personal data replaced."""
        found = self._analyzer.analyze(text, language="en", score_threshold=0.4)
        return str(self._anonymizer.anonymize(text, found).text) if found else text

    def interaction(self, interaction: Interaction) -> Interaction:
        """The interaction with its texts redacted. Choices stay as they are: truth and choices must still match."""
        closed = interaction.choices is not None
        return interaction.model_copy(
            update={
                "query": self.text(interaction.query),
                "response": interaction.response if closed else _maybe(self, interaction.response),
                "truth": interaction.truth if closed else _maybe(self, interaction.truth),
            }
        )


def _maybe(redactor: Redactor, text: str | None) -> str | None:
    return None if text is None else redactor.text(text)


def redacted_persona(persona: Persona, redact: Callable[[str], str]) -> Persona:
    """A version with all its texts redacted, but for exemplars' choices and the answers among them."""
    claims = tuple(c.model_copy(update={"text": redact(c.text), "note": redact(c.note)}) for c in persona.claims)
    exemplars = tuple(
        e.model_copy(update={"query": redact(e.query), "truth": redact(e.truth) if e.choices is None else e.truth})
        for e in persona.exemplars
    )
    made_of_claims = rendered(persona.text, persona.claims)
    return persona.model_copy(
        update={
            "text": render(claims) if made_of_claims else redact(persona.text),
            "claims": claims,
            "exemplars": exemplars,
            "struck": tuple(redact(text) for text in persona.struck),
        }
    )


def redacted_profile(profile: Profile, redact: Callable[[str], str]) -> Profile:
    """A profile with the texts of its facts redacted."""
    facts = tuple(f.model_copy(update={"text": redact(f.text), "topic": redact(f.topic)}) for f in profile.facts)
    return profile.model_copy(update={"facts": facts})


class Cipher:
    """Authenticated encryption of stored payloads (Fernet: AES-128-CBC with HMAC-SHA256)."""

    def __init__(self, key: SecretStr) -> None:
        """`key`: one or more Fernet keys separated by commas; the first encrypts, all decrypt (for rotation).

        Raises:
            InvalidInput: the key is not a Fernet key, or the `privacy` extra is not installed.
        """
        try:
            from cryptography.fernet import Fernet, MultiFernet
        except ImportError as e:
            raise InvalidInput(f"memory.encryption_key needs cryptography; {EXTRA}") from e
        try:
            self._fernet = MultiFernet([Fernet(k.strip()) for k in key.get_secret_value().split(",")])
        except ValueError as e:
            raise InvalidInput(
                "memory.encryption_key is not a Fernet key; make one with: "
                'python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"'
            ) from e

    def encrypt(self, text: str) -> str:
        """Ciphertext, ASCII."""
        return self._fernet.encrypt(text.encode("utf-8")).decode("ascii")

    def decrypt(self, token: str) -> str:
        """Plain text. Raises StoreError if the key does not fit or the stored text was changed."""
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(token.encode("ascii")).decode("utf-8")
        except (InvalidToken, UnicodeEncodeError) as e:
            raise StoreError("the stored text cannot be decrypted: wrong memory.encryption_key, or damaged data") from e
