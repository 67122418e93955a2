//! What each mineral looks like: the relief of its surface, the layers of its
//! section and its two colours, loosely after the descriptions of Daudon's
//! subtypes. Colours of different minerals overlap once each stone's own cast
//! is applied; texture has to tell them apart.

use domain::study::stone::{Class, View};

use super::noise::{cell, fractal, hash, unit, value};

/// A point of a stone.
pub(super) struct Point {
    /// Position in texture units, turned and moved per stone.
    pub(super) at: [f32; 2],
    /// Distance from the middle: 0 there, 1 at the outline.
    pub(super) depth: f32,
    /// Direction from the middle, in radians.
    pub(super) angle: f32,
}

/// The surface as it is seen at a point.
pub(super) struct Look {
    /// Height in texture units.
    pub(super) height: f32,
    /// 0: first colour; 1: second colour.
    pub(super) blend: f32,
}

/// Properties of a mineral that do not vary over the stone.
pub(super) struct Material {
    /// Red, green and blue of reflected light, 0 to 1.
    pub(super) colors: [[f32; 3]; 2],
    /// Strength of glossy reflection, 0 to 1.
    pub(super) gloss: f32,
}

/// The material of a class; a section is paler than the surface.
pub(super) fn material(class: Class, view: View) -> Material {
    let (colors, gloss) = match class {
        Class::Ia => ([[0.50, 0.33, 0.20], [0.24, 0.15, 0.10]], 0.20),
        Class::Iia => ([[0.66, 0.52, 0.32], [0.42, 0.31, 0.18]], 0.45),
        Class::Iiia => ([[0.68, 0.42, 0.20], [0.45, 0.23, 0.12]], 0.10),
        Class::Iva => ([[0.66, 0.56, 0.44], [0.44, 0.33, 0.24]], 0.00),
        Class::Iva2 => ([[0.60, 0.44, 0.31], [0.27, 0.17, 0.12]], 0.40),
        Class::Ivc => ([[0.72, 0.66, 0.56], [0.50, 0.43, 0.34]], 0.20),
        Class::Ivd => ([[0.65, 0.51, 0.36], [0.41, 0.30, 0.20]], 0.15),
        Class::Va => ([[0.67, 0.54, 0.30], [0.52, 0.38, 0.19]], 0.60),
    };
    let pale = |color: [f32; 3]| color.map(|value| 0.82 * value + 0.10);
    match view {
        View::Sur => Material { colors, gloss },
        View::Sec => Material { colors: colors.map(pale), gloss: 0.4 * gloss },
    }
}

/// The look of a stone of that class at a point. `seed` is the stone's own.
pub(super) fn look(class: Class, view: View, seed: u32, point: &Point) -> Look {
    match view {
        View::Sur => surface(class, seed, point.at),
        View::Sec => section(class, seed, point),
    }
}

/// Relief of the outside.
fn surface(class: Class, seed: u32, [u, v]: [f32; 2]) -> Look {
    match class {
        // Rounded bumps side by side.
        Class::Ia => {
            let bump = cell(seed, u / 1.9, v / 1.9);
            let round = (1.0 - bump.near * bump.near / 0.8).max(0.0).sqrt();
            Look { height: 1.3 * round + 0.1 * fractal(seed ^ 3, u, v), blend: 0.9 - 0.8 * round }
        }
        // Pointed crystals: small tilted facets.
        Class::Iia => {
            let crystal = cell(seed, u / 1.3, v / 1.3);
            let tilt = |part| 2.0 * unit(hash(crystal.id, 7, 7), part) - 1.0;
            let height = 1.5 * (tilt(0) * crystal.from[0] + tilt(1) * crystal.from[1]) - 0.5 * crystal.near;
            Look { height, blend: unit(hash(crystal.id, 1, 1), 0) }
        }
        // Smooth with pores.
        Class::Iiia => {
            let pore = cell(seed, u / 1.7, v / 1.7);
            let deep = (1.0 - pore.near / 0.26).clamp(0.0, 1.0);
            Look {
                height: 0.5 * fractal(seed ^ 3, u / 4.0, v / 4.0) - 0.5 * deep,
                blend: 0.35 + 0.3 * value(seed ^ 4, u / 5.0, v / 5.0) + 0.6 * deep,
            }
        }
        // Fine grains, no gloss.
        Class::Iva => {
            let grain = fractal(seed, u * 1.1, v * 1.1);
            Look { height: 0.42 * grain, blend: 0.45 - 0.45 * grain + 0.25 * value(seed ^ 3, u / 4.0, v / 4.0) }
        }
        // A glaze with cracks.
        Class::Iva2 => {
            let (du, dv) = (0.5 * value(seed ^ 5, u / 2.0, v / 2.0), 0.5 * value(seed ^ 6, u / 2.0, v / 2.0));
            let plate = cell(seed, (u + du) / 3.1, (v + dv) / 3.1);
            let crack = (1.0 - (plate.second - plate.near) / 0.13).clamp(0.0, 1.0);
            Look { height: -0.7 * crack + 0.1 * fractal(seed ^ 3, u / 2.0, v / 2.0), blend: 0.2 + 0.8 * crack }
        }
        // Large blocks with flat faces and edges.
        Class::Ivc => {
            let block = cell(seed, u / 2.7, v / 2.7);
            let tilt = |part| 2.0 * unit(hash(block.id, 7, 7), part) - 1.0;
            let edge = (1.0 - (block.second - block.near) / 0.12).clamp(0.0, 1.0);
            let face = 1.6 * (tilt(0) * block.from[0] + tilt(1) * block.from[1]);
            Look { height: face - 0.4 * edge, blend: 0.25 * edge + 0.5 * unit(hash(block.id, 1, 1), 0) }
        }
        // Bundles of fibres.
        Class::Ivd => {
            let bend = 1.6 * value(seed ^ 5, u / 6.0, v / 6.0);
            let fibre = value(seed, (u + bend) / 0.75, v / 5.0);
            Look { height: 0.5 * fibre, blend: 0.45 - 0.45 * fibre + 0.15 * value(seed ^ 6, u / 2.0, v / 2.0) }
        }
        // Soft wax.
        Class::Va => {
            let soft = wax(seed, u, v);
            Look { height: 0.5 * soft, blend: 0.35 + 0.2 * value(seed ^ 3, u / 3.0, v / 3.0) }
        }
    }
}

/// Soft bumps: two lattices turned against each other, so that neither shows.
fn wax(seed: u32, u: f32, v: f32) -> f32 {
    let turned = value(seed ^ 7, (0.8 * u + 0.6 * v) / 1.4, (0.8 * v - 0.6 * u) / 1.4);
    0.7 * (value(seed, u / 1.5, v / 1.5) + turned)
}

/// A cut: layers round a core where the mineral grows so, little relief.
fn section(class: Class, seed: u32, point: &Point) -> Look {
    let [u, v] = point.at;
    let (sin, cos) = point.angle.sin_cos();
    // Layers follow the outline, unevenly.
    let depth = point.depth + 0.07 * value(seed ^ 11, 2.5 * cos + 9.0, 2.5 * sin);
    // Bands of unequal width and darkness: 0 to 1.
    let layers = |count: f32| 0.5 + 0.5 * value(seed ^ 12, depth * count, 0.5);
    let grain = |size: f32| fractal(seed ^ 13, u / size, v / size);
    // Streaks that run outwards; round the circle without a seam.
    let rays = |count: f32| value(seed ^ 14, count * cos, count * sin + 0.3 * depth);
    match class {
        Class::Ia => Look { height: 0.10 * rays(14.0), blend: 0.85 * layers(22.0) + 0.30 * rays(14.0) },
        Class::Iia => {
            let Look { height, blend } = surface(class, seed, [1.2 * u, 1.2 * v]);
            Look { height: 0.5 * height, blend: 0.8 * blend + 0.1 }
        }
        Class::Iiia => {
            Look { height: 0.05 * grain(1.5), blend: 1.1 * layers(7.0) - 0.1 + if depth < 0.2 { 0.3 } else { 0.0 } }
        }
        Class::Iva => Look { height: 0.22 * grain(1.0), blend: 0.5 * layers(12.0) + 0.45 * grain(1.0) + 0.2 },
        Class::Iva2 => {
            let Look { height, blend } = surface(class, seed, [0.85 * u, 0.85 * v]);
            Look { height: 0.6 * height, blend: 0.75 * blend + 0.35 * layers(9.0) - 0.1 }
        }
        Class::Ivc => {
            let Look { height, blend } = surface(class, seed, [u, v]);
            Look { height: 0.4 * height, blend: blend + 0.25 * grain(2.0) }
        }
        Class::Ivd => Look { height: 0.30 * rays(11.0), blend: 0.45 - 0.55 * rays(11.0) + 0.15 * layers(5.0) },
        Class::Va => Look { height: 0.22 * wax(seed, u, v), blend: 0.4 + 0.3 * value(seed ^ 3, u / 2.6, v / 2.6) },
    }
}
