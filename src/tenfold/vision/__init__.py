"""Floor 2: pictures. The shapes world and its exact check, GenEval's files, pictures with their texts."""
