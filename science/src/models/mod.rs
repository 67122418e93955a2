//! Networks, one per file, top to bottom: configuration, blocks, model, forward.
