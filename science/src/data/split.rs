//! Training and test sides, by image: no image is ever on both (ALGORITHM 6, step 1).

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// What one image is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// Whether a diffusion model learns from it. Then it is never tested.
    pub generator: bool,
    /// The fold whose test side it is on; in all others it is trained on.
    pub test_fold: Option<u32>,
}

/// Splits the `images` of one class.
///
/// Up to `generators` of them are set apart for a diffusion model, as many as
/// leave an image to test per fold. Of the others, with one fold, the share
/// `test_fraction` of all is tested, at least one and at most all but one
/// image; with more folds each is tested in one fold, dealt round-robin.
/// `None` if there are fewer images than that needs: one per fold, and one to
/// learn from that no fold tests (with one fold or a generator). `pick` chooses
/// the generators' images where it is given, `rng` otherwise.
pub fn split(
    images: usize,
    generators: usize,
    folds: u32,
    test_fraction: f64,
    rng: &mut ChaCha8Rng,
    pick: Option<&mut ChaCha8Rng>,
) -> Option<Vec<Side>> {
    let folds = folds.max(1);
    if images < fewest(generators, folds) {
        return None;
    }
    let generators = generators.min(images - folds as usize);
    let mut order: Vec<usize> = (0..images).collect();
    order.shuffle(rng);
    if let Some(pick) = pick {
        let picked = pick_any(images, generators, pick);
        order.sort_by_key(|image| picked.iter().position(|picked| picked == image).unwrap_or(generators));
    }
    let mut sides = vec![Side::default(); images];
    let (set_apart, testable) = order.split_at(generators);
    for image in set_apart {
        sides[*image].generator = true;
    }
    let tested = match folds {
        1 => ((images as f64 * test_fraction).round() as usize).clamp(1, testable.len().min(images - 1)),
        _ => testable.len(),
    };
    for (i, image) in testable[..tested].iter().enumerate() {
        sides[*image].test_fold = Some(i as u32 % folds);
    }
    Some(sides)
}

/// Some images out of all, in random order.
pub fn pick_any(images: usize, wanted: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..images).collect();
    order.shuffle(rng);
    order.truncate(wanted);
    order
}

/// The fewest images of a class that [`split`] can work with.
pub fn fewest(generators: usize, folds: u32) -> usize {
    let folds = folds.max(1) as usize;
    if generators > 0 || folds == 1 { folds + 1 } else { folds }
}

#[cfg(test)]
mod tests {
    use domain::seed::Seed;

    use super::*;
    use crate::random::stream;

    fn sides(images: usize, generators: usize, folds: u32, fraction: f64) -> Option<Vec<Side>> {
        split(images, generators, folds, fraction, &mut stream(Seed(1), "split", 0), None)
    }

    #[test]
    fn a_seed_of_its_own_chooses_the_generators_images_alone() {
        let learnt = |seed: u64| {
            let mut pick = stream(Seed(seed), "pick", 0);
            let sides = split(30, 8, 1, 0.2, &mut stream(Seed(1), "split", 0), Some(&mut pick)).unwrap();
            assert!(sides.iter().all(|side| !(side.generator && side.test_fold.is_some())));
            assert_eq!(tested(&sides, 0), 6);
            sides.iter().map(|side| side.generator).collect::<Vec<_>>()
        };
        assert_eq!(learnt(1), learnt(1));
        assert_ne!(learnt(1), learnt(2));
        assert_eq!(learnt(1).iter().filter(|learnt| **learnt).count(), 8);
    }

    fn tested(sides: &[Side], fold: u32) -> usize {
        sides.iter().filter(|side| side.test_fold == Some(fold)).count()
    }

    #[test]
    fn one_fold_tests_the_fraction_and_never_a_generator_image() {
        for images in 2..80 {
            for generators in [0, 8] {
                let sides = sides(images, generators, 1, 0.2).unwrap();
                let wanted = ((images as f64 * 0.2).round() as usize).max(1);
                let learnt = sides.iter().filter(|side| side.generator).count();
                assert_eq!(learnt, generators.min(images - 1));
                assert_eq!(tested(&sides, 0), wanted.min(images - learnt), "{images} images");
                assert!(sides.iter().all(|side| !(side.generator && side.test_fold.is_some())));
            }
        }
    }

    #[test]
    fn folds_deal_every_other_image_once_and_evenly() {
        let sides = sides(23, 8, 5, 0.2).unwrap();
        assert_eq!((0..5).map(|fold| tested(&sides, fold)).collect::<Vec<_>>(), [3; 5]);
        assert_eq!(sides.iter().filter(|side| side.generator).count(), 8);
    }

    #[test]
    fn too_few_images_cannot_be_split() {
        assert_eq!(sides(1, 0, 1, 0.2), None);
        assert_eq!(sides(4, 0, 5, 0.2), None);
        assert_eq!(sides(5, 8, 5, 0.2), None);
        assert_eq!(sides(6, 8, 5, 0.2).unwrap().iter().filter(|side| side.generator).count(), 1);
    }
}
