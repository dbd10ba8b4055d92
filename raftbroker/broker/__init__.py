"""Use cases: what a front door can ask of the cluster, whichever node it stands on."""
