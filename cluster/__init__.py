"""What runs the system on Kubernetes: manifests rendered from the settings, images, a dashboard.

It knows the settings tree and KubeRay's resources, and nothing of memory, alignment or serving.
"""
