//! Means, spreads and distances of samples. Pure functions.
