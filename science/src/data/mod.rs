//! Pictures: reading, resizing, masks, contact sheets and stand-ins.
