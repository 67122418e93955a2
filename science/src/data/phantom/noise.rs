//! Noise on the plane: pure functions of a seed and a point, equal everywhere.

/// A point's 32 random bits.
pub(super) fn hash(seed: u32, x: i32, y: i32) -> u32 {
    let mut bits = seed ^ (x as u32).wrapping_mul(0x9E37_79B1) ^ (y as u32).wrapping_mul(0x85EB_CA77).rotate_left(13);
    bits = (bits ^ (bits >> 16)).wrapping_mul(0x7FEB_352D);
    bits = (bits ^ (bits >> 15)).wrapping_mul(0x846C_A68B);
    bits ^ (bits >> 16)
}

/// 16 of 32 bits as a number from 0 up to 1; `part` 0 or 1 chooses which.
pub(super) fn unit(bits: u32, part: u32) -> f32 {
    ((bits >> (16 * part)) & 0xFFFF) as f32 / 65_536.0
}

/// Smooth noise from −1 to 1 with features of size one.
pub(super) fn value(seed: u32, x: f32, y: f32) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let (i, j) = (left as i32, top as i32);
    let ease = |t: f32| t * t * (3.0 - 2.0 * t);
    let (s, t) = (ease(x - left), ease(y - top));
    let corner = |dx: i32, dy: i32| unit(hash(seed, i.wrapping_add(dx), j.wrapping_add(dy)), 0);
    let above = corner(0, 0) + (corner(1, 0) - corner(0, 0)) * s;
    let below = corner(0, 1) + (corner(1, 1) - corner(0, 1)) * s;
    2.0 * (above + (below - above) * t) - 1.0
}

/// Three octaves of [`value`].
pub(super) fn fractal(seed: u32, x: f32, y: f32) -> f32 {
    (value(seed, x, y) + 0.5 * value(seed ^ 1, 2.0 * x, 2.0 * y) + 0.25 * value(seed ^ 2, 4.0 * x, 4.0 * y)) / 1.75
}

/// The cell that a point lies in among scattered seeds, one per unit square.
pub(super) struct Cell {
    /// Distance to the nearest seed.
    pub(super) near: f32,
    /// Distance to the second nearest.
    pub(super) second: f32,
    /// The point as seen from the nearest seed.
    pub(super) from: [f32; 2],
    /// Random bits of the nearest seed.
    pub(super) id: u32,
}

/// The cell that a point lies in.
pub(super) fn cell(seed: u32, x: f32, y: f32) -> Cell {
    let (i, j) = (x.floor() as i32, y.floor() as i32);
    let mut cell = Cell { near: f32::MAX, second: f32::MAX, from: [0.0; 2], id: 0 };
    for dy in -1..=1 {
        for dx in -1..=1 {
            let (a, b) = (i.wrapping_add(dx), j.wrapping_add(dy));
            let id = hash(seed, a, b);
            let from = [x - a as f32 - unit(id, 0), y - b as f32 - unit(id, 1)];
            let distance = from[0] * from[0] + from[1] * from[1];
            if distance < cell.near {
                cell = Cell { near: distance, second: cell.near, from, id };
            } else if distance < cell.second {
                cell.second = distance;
            }
        }
    }
    Cell { near: cell.near.sqrt(), second: cell.second.sqrt(), ..cell }
}
