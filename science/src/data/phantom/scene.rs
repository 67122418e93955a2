//! One picture: a stone, its light, its surroundings and the camera.

use domain::study::stone::{Class, Dataset, View};
use image::RgbImage;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::material::{Look, Point, look, material};
use super::noise::{fractal, hash, unit, value};

/// Corners of the table of the outline.
const ANGLES: usize = 512;

/// Everything that is drawn at random once per picture.
struct Scene {
    size: [usize; 2],
    /// Middle of the stone, in pixels.
    centre: [f32; 2],
    /// Mean radius, in pixels.
    radius: f32,
    /// Radius by direction, as a multiple of the mean.
    outline: Vec<f32>,
    /// Pixels per texture unit. The picture's width decides, so that a class
    /// looks the same at any size; an endoscope is nearer to the stone.
    unit: f32,
    /// The roughness of this stone as a multiple of its class's.
    relief: f32,
    /// Turn and origin of the texture.
    turn: [f32; 2],
    origin: [f32; 2],
    /// Towards the light, of length one.
    light: [f32; 3],
    /// The stone's own colour cast, per channel.
    cast: [f32; 3],
    seed: u32,
}

/// Draws a picture of a stone. Equal generators give equal pixels.
pub(super) fn draw(dataset: Dataset, view: View, class: Class, size: [u32; 2], rng: &mut ChaCha8Rng) -> RgbImage {
    let scene = Scene::random(dataset, size, rng);
    let mut pixels = match dataset {
        Dataset::A | Dataset::B => scene.bench(rng),
        Dataset::C => scene.tissue(rng),
    };
    scene.stone(view, class, &mut pixels);
    if dataset == Dataset::C {
        scene.glare(rng, &mut pixels);
        let sigma = rng.random_range(0.004..0.0075) * scene.size[0] as f32;
        blur(&mut pixels, scene.size[0], sigma);
        scene.vignette(rng, &mut pixels);
    }
    let noise = match dataset {
        Dataset::A | Dataset::B => 0.006,
        Dataset::C => 0.016,
    };
    scene.develop(&pixels, noise)
}

impl Scene {
    fn random(dataset: Dataset, size: [u32; 2], rng: &mut ChaCha8Rng) -> Self {
        let [width, height] = size.map(|side| side as f32);
        let frame = width.min(height * 1.5);
        let (radius, unit, wander) = match dataset {
            Dataset::A | Dataset::B => (rng.random_range(0.19..0.25), 0.020, 0.03),
            Dataset::C => (rng.random_range(0.29..0.35), 0.050, 0.05),
        };
        let mut shake = |by: f32| rng.random_range(-by..by);
        let centre = [width * (0.5 + shake(wander)), height * (0.5 + shake(wander))];
        let waves: Vec<[f32; 3]> =
            (2..9).map(|wave| [wave as f32, shake(0.22) / wave as f32, shake(std::f32::consts::PI)]).collect();
        let outline = (0..ANGLES)
            .map(|i| {
                let angle = i as f32 / ANGLES as f32 * std::f32::consts::TAU;
                1.0 + waves.iter().map(|[wave, height, phase]| height * (wave * angle + phase).cos()).sum::<f32>()
            })
            .collect();
        let turn = shake(std::f32::consts::PI);
        let light_angle = -2.3 + shake(0.5);
        let light_height: f32 = 0.75 + shake(0.12);
        let across = (1.0 - light_height * light_height).sqrt();
        // Brightness, saturation and a cast: wide enough that colour alone
        // does not tell the classes apart.
        let brightness = shake(0.25).exp();
        let (warm, green) = (shake(0.16), shake(0.06));
        let cast = [warm, green, -warm + shake(0.10)].map(|gain: f32| brightness * gain.exp());
        Self {
            size: size.map(|side| side as usize),
            centre,
            radius: radius * frame,
            outline,
            unit: unit * frame * shake(0.28).exp(),
            relief: shake(0.45).exp(),
            turn: [turn.cos(), turn.sin()],
            origin: [shake(500.0), shake(500.0)],
            light: [across * light_angle.cos(), across * light_angle.sin(), light_height],
            cast,
            seed: rng.random(),
        }
    }

    /// The position of a pixel relative to the stone.
    fn point(&self, x: f32, y: f32) -> Point {
        let (dx, dy) = (x - self.centre[0], y - self.centre[1]);
        let angle = dy.atan2(dx);
        let turn = angle / std::f32::consts::TAU * ANGLES as f32 + ANGLES as f32;
        let (left, share) = (turn.floor(), turn - turn.floor());
        let at = |i: usize| self.outline[i % ANGLES];
        let edge = at(left as usize) * (1.0 - share) + at(left as usize + 1) * share;
        let [cos, sin] = self.turn;
        Point {
            at: [
                (cos * dx - sin * dy) / self.unit + self.origin[0],
                (sin * dx + cos * dy) / self.unit + self.origin[1],
            ],
            depth: (dx * dx + dy * dy).sqrt() / (edge * self.radius),
            angle,
        }
    }

    /// A dark, even background.
    fn bench(&self, rng: &mut ChaCha8Rng) -> Vec<[f32; 3]> {
        let level = rng.random_range(0.02..0.05);
        vec![[level, level * 1.02, level * 1.08]; self.size[0] * self.size[1]]
    }

    /// Mucosa with a gradient and vessels.
    fn tissue(&self, rng: &mut ChaCha8Rng) -> Vec<[f32; 3]> {
        let [width, height] = self.size;
        let red = rng.random_range(0.42..0.58);
        let slope = [rng.random_range(-0.3..0.3), rng.random_range(-0.3..0.3)];
        let mut pixels = Vec::with_capacity(width * height);
        for y in 0..height {
            for x in 0..width {
                let (u, v) = (x as f32 / width as f32 - 0.5, y as f32 / width as f32 - 0.4);
                let bend = 0.15 * fractal(self.seed ^ 21, 4.0 * u, 4.0 * v);
                let vessel = 1.0 - (value(self.seed ^ 22, 5.0 * (u + bend), 5.0 * (v - bend)).abs() / 0.10).min(1.0);
                let light = red * (1.0 + slope[0] * u + slope[1] * v + 0.15 * value(self.seed ^ 23, 9.0 * u, 9.0 * v));
                pixels.push([light, light * (0.50 - 0.16 * vessel), light * (0.44 - 0.12 * vessel)]);
            }
        }
        pixels
    }

    /// Paints the stone over the background.
    fn stone(&self, view: View, class: Class, pixels: &mut [[f32; 3]]) {
        let [width, height] = self.size;
        let reach = self.radius * self.outline.iter().copied().fold(0.0, f32::max) + 2.0;
        let span = |centre: f32, side: usize| {
            let first = (centre - reach).max(0.0) as usize;
            (first.min(side), ((centre + reach) as usize + 1).min(side))
        };
        let ((left, right), (top, bottom)) = (span(self.centre[0], width), span(self.centre[1], height));
        if left >= right || top >= bottom {
            return;
        }
        let columns = right - left;
        // Looks first: light needs the slope of the height.
        let mut looks = Vec::with_capacity(columns * (bottom - top));
        for y in top..bottom {
            for x in left..right {
                let point = self.point(x as f32 + 0.5, y as f32 + 0.5);
                let depth = point.depth;
                looks.push(if depth < 1.02 {
                    (look(class, view, self.seed, &point), depth)
                } else {
                    (Look { height: 0.0, blend: 0.0 }, depth)
                });
            }
        }
        let material = material(class, view);
        let steep = 0.5 * self.unit * self.relief;
        let soft = 1.5 / self.radius; // an edge of one and a half pixels
        for y in 0..bottom - top {
            for x in 0..columns {
                let here = &looks[y * columns + x];
                let opaque = ((1.0 - here.1) / soft).clamp(0.0, 1.0);
                if opaque == 0.0 {
                    continue;
                }
                let at = |x: usize, y: usize| looks[y.min(bottom - top - 1) * columns + x.min(columns - 1)].0.height;
                let slope = [
                    (at(x + 1, y) - at(x.saturating_sub(1), y)) * steep,
                    (at(x, y + 1) - at(x, y.saturating_sub(1))) * steep,
                ];
                let out = [(left + x) as f32 + 0.5 - self.centre[0], (top + y) as f32 + 0.5 - self.centre[1]];
                let color = self.shade(&material, view, &here.0, here.1, slope, out);
                let pixel = &mut pixels[(top + y) * width + left + x];
                for (value, new) in pixel.iter_mut().zip(color) {
                    *value += (new - *value) * opaque;
                }
            }
        }
    }

    /// The light that a point of the stone sends to the camera.
    fn shade(
        &self,
        material: &super::material::Material,
        view: View,
        look: &Look,
        depth: f32,
        slope: [f32; 2],
        out: [f32; 2],
    ) -> [f32; 3] {
        // A whole stone is a dome; a cut one is flat with a worn rim.
        let dome = match view {
            View::Sur => 0.75 * depth,
            View::Sec => 0.5 * depth.powi(10),
        } / (depth * self.radius).max(1.0);
        let normal = [dome * out[0] - slope[0], dome * out[1] - slope[1], 1.0];
        let length = (normal[0] * normal[0] + normal[1] * normal[1] + 1.0).sqrt();
        let facing = normal.iter().zip(self.light).map(|(n, l)| n * l).sum::<f32>().max(0.0) / length;
        // Halfway between the light and a camera above.
        let half = [self.light[0], self.light[1], self.light[2] + 1.0];
        let half_length = half.iter().map(|value| value * value).sum::<f32>().sqrt();
        let mirror = normal.iter().zip(half).map(|(n, h)| n * h).sum::<f32>().max(0.0) / (length * half_length);
        let gloss = material.gloss * mirror.powi(40) * 0.7;
        let blend = look.blend.clamp(0.0, 1.0);
        let mut color = [0.0; 3];
        for (channel, value) in color.iter_mut().enumerate() {
            let own = material.colors[0][channel] * (1.0 - blend) + material.colors[1][channel] * blend;
            *value = own * self.cast[channel] * (0.22 + 1.0 * facing) + gloss;
        }
        color
    }

    /// Reflections of the endoscope's own light.
    fn glare(&self, rng: &mut ChaCha8Rng, pixels: &mut [[f32; 3]]) {
        let [width, height] = self.size;
        for _ in 0..rng.random_range(2..6) {
            let angle = rng.random_range(0.0..std::f32::consts::TAU);
            let away = self.radius * rng.random_range(0.1..0.8);
            let [x, y] = [self.centre[0] + away * angle.cos(), self.centre[1] + away * angle.sin()];
            let radius = rng.random_range(0.006..0.022) * width as f32;
            let span = |middle: f32, side: usize| {
                let first = (middle - 2.0 * radius - 1.0).max(0.0) as usize;
                first.min(side)..((middle + 2.0 * radius + 2.0).max(0.0) as usize).min(side)
            };
            for j in span(y, height) {
                for i in span(x, width) {
                    let (dx, dy) = ((i as f32 + 0.5 - x) / radius, (j as f32 + 0.5 - y) / (0.6 * radius));
                    let bright = (-(dx * dx + dy * dy)).exp();
                    for value in &mut pixels[j * width + i] {
                        *value += 0.9 * bright;
                    }
                }
            }
        }
    }

    /// Light that falls off towards the border, and the black round field of view.
    fn vignette(&self, rng: &mut ChaCha8Rng, pixels: &mut [[f32; 3]]) {
        let [width, height] = self.size;
        let edge: f32 = rng.random_range(0.52..0.58);
        for (i, pixel) in pixels.iter_mut().enumerate() {
            let (x, y) = ((i % width) as f32 + 0.5, (i / width) as f32 + 0.5);
            let (u, v) = (x / width as f32 - 0.5, (y - 0.5 * height as f32) / width as f32);
            let away = (u * u + v * v).sqrt();
            let open = ((edge - away) * 60.0).clamp(0.0, 1.0);
            let light = open * (1.1 - 1.1 * away * away);
            for value in pixel {
                *value *= light;
            }
        }
    }

    /// To 8 bits with sensor noise of that spread.
    fn develop(&self, pixels: &[[f32; 3]], noise: f32) -> RgbImage {
        let [width, height] = self.size;
        let mut image = RgbImage::new(width as u32, height as u32);
        for (i, (to, pixel)) in image.pixels_mut().zip(pixels).enumerate() {
            for (channel, (byte, value)) in to.0.iter_mut().zip(pixel).enumerate() {
                let bits = hash(self.seed ^ 31, i as i32, channel as i32);
                // The sum of two uniform numbers: variance 1/6.
                let grain = (unit(bits, 0) + unit(bits, 1) - 1.0) * 2.45 * noise;
                // A shoulder instead of burnt highlights.
                let value = if *value > 0.8 { 1.0 - 0.2 * (-(value - 0.8) / 0.2).exp() } else { *value };
                *byte = ((value + grain) * 255.0 + 0.5).clamp(0.0, 255.0) as u8;
            }
        }
        image
    }
}

/// Gaussian blur with that spread in pixels; the edge is repeated.
fn blur(pixels: &mut Vec<[f32; 3]>, width: usize, sigma: f32) {
    let reach = (2.5 * sigma).ceil() as isize;
    let weights: Vec<f32> = (-reach..=reach).map(|i| (-0.5 * (i as f32 / sigma).powi(2)).exp()).collect();
    let sum: f32 = weights.iter().sum();
    let height = pixels.len() / width;
    for along_x in [true, false] {
        let mut result = vec![[0.0; 3]; pixels.len()];
        for (i, to) in result.iter_mut().enumerate() {
            let (x, y) = (i % width, i / width);
            for (weight, step) in weights.iter().zip(-reach..) {
                let near = |at: usize, side: usize| at.saturating_add_signed(step).min(side - 1);
                let from = if along_x { y * width + near(x, width) } else { near(y, height) * width + x };
                for (value, source) in to.iter_mut().zip(pixels[from]) {
                    *value += weight / sum * source;
                }
            }
        }
        *pixels = result;
    }
}
