//! The main job from end to end: a server protected, a moment chosen, that moment restored.
