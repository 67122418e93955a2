//! What each image of a class is for, by stone: which a diffusion model learns from,
//! and which are tested. No stone is ever on both sides of a split (ALGORITHM 6,
//! step 1).
//!
//! `stones` names the stone of each image by a number; see [`numbered`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use domain::seed::Seed;
use domain::study::experiment::Pick;
use domain::study::stage::Choice;
use domain::study::stone::Class;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::random;

/// The stone that each picture of a class shows, where that is known by its file name.
pub fn stones_of(known: &BTreeMap<String, u32>, files: &[PathBuf]) -> Vec<Option<u32>> {
    files.iter().map(|path| known.get(path.file_name()?.to_str()?).copied()).collect()
}

/// The stone of each image by a number; an image of which it is not known shows one
/// of its own.
pub fn numbered(stones: &[Option<u32>]) -> Vec<usize> {
    let free = stones.iter().flatten().max().map_or(0, |last| *last as usize + 1);
    stones.iter().enumerate().map(|(image, stone)| stone.map_or(free + image, |stone| stone as usize)).collect()
}

/// The number of stones.
pub fn count(stones: &[Option<u32>]) -> usize {
    numbered(stones).into_iter().collect::<BTreeSet<_>>().len()
}

/// The use of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Role {
    /// True if a diffusion model learns from the image.
    pub generator: bool,
    /// True if a split may put the image on the test side.
    pub testable: bool,
}

/// The roles of the images of one class, from the stones that they show; `None` if they are too
/// few.
pub fn roles(choice: Option<&Choice>, class: Class, stones: &[Option<u32>]) -> Option<Vec<Role>> {
    let stones = numbered(stones);
    // Without a choice nothing is drawn.
    let Choice { images, pick, seed } =
        choice.copied().unwrap_or(Choice { images: 0, pick: Pick::RandomFromTrainSplit, seed: Seed(0) });
    let mut rng = random::stream(seed, "ingest.pick", class as u64);
    match pick {
        Pick::RandomFromTrainSplit => set_apart(&stones, images as usize, &mut rng),
        Pick::RandomFromAll => {
            let mut roles = set_apart(&stones, 0, &mut rng)?;
            for image in pick_any(stones.len(), images as usize, &mut rng) {
                roles[image].generator = true;
            }
            Some(roles)
        }
    }
}

/// Sets up to `wanted` images of a class apart for a diffusion model, by whole stones in
/// a random order that depends on nothing but the stones, so that fewer are the first of
/// more. One stone is left to test, the last of those that leave enough images, or the
/// smallest. What is left of a stone that it learns from is not tested either.
///
/// `None` if there are fewer than [`FEWEST`] stones.
pub fn set_apart(stones: &[usize], wanted: usize, rng: &mut ChaCha8Rng) -> Option<Vec<Role>> {
    let mut members = members(stones, |_| true);
    if members.len() < FEWEST {
        return None;
    }
    members.shuffle(rng);
    let smallest = members.iter().map(Vec::len).min().unwrap_or(0);
    let spared = members.iter().rposition(|stone| stones.len() - stone.len() >= wanted);
    let spared = spared.or_else(|| members.iter().rposition(|stone| stone.len() == smallest));
    spared.map(|stone| members.remove(stone));
    let mut roles = vec![Role { generator: false, testable: true }; stones.len()];
    let mut missing = wanted;
    for stone in members {
        if missing == 0 {
            break;
        }
        for (place, image) in stone.iter().enumerate() {
            roles[*image] = Role { generator: place < missing, testable: false };
        }
        missing -= missing.min(stone.len());
    }
    Some(roles)
}

/// The fold in which each image of a class is tested; in all others it is learnt
/// from, and always where there is none.
///
/// With one fold, whole stones are tested up to the share `test_fraction` of all
/// images, at least one and at most all but one stone; the smallest if each has more
/// images than that. With more folds each testable stone is tested in one, dealt
/// round-robin, or so that folds have equally many images where stones do not; with
/// fewer stones than folds, some test none.
///
/// `None` if no stone may be tested, or none is left to learn from.
pub fn deal(
    stones: &[usize],
    testable: &[bool],
    folds: u32,
    test_fraction: f64,
    rng: &mut ChaCha8Rng,
) -> Option<Vec<Option<u32>>> {
    let folds = folds.max(1) as usize;
    let all = members(stones, |_| true).len();
    let mut members = members(stones, |image| testable[image]);
    if members.is_empty() || all < FEWEST {
        return None;
    }
    members.shuffle(rng);
    let mut dealt = vec![None; stones.len()];
    if folds == 1 {
        let wanted = ((stones.len() as f64 * test_fraction).round() as usize).max(1);
        let smallest = members.iter().min_by_key(|stone| stone.len()).cloned();
        let (mut room, mut left) = (wanted, all - 1);
        members.retain(|stone| {
            let fits = stone.len() <= room && left > 0;
            if fits {
                (room, left) = (room - stone.len(), left - 1);
            }
            fits
        });
        if members.is_empty() {
            members.extend(smallest);
        }
        members.iter().flatten().for_each(|image| dealt[*image] = Some(0));
        return Some(dealt);
    }
    // Largest first, each to the fold that has fewest images; the order drawn stays
    // among equals.
    members.sort_by_key(|stone| std::cmp::Reverse(stone.len()));
    let mut sizes = vec![0; folds];
    for stone in members {
        let fold = (0..folds).min_by_key(|fold| sizes[*fold]).unwrap_or(0);
        sizes[fold] += stone.len();
        stone.iter().for_each(|image| dealt[*image] = Some(fold as u32));
    }
    Some(dealt)
}

/// Some images out of all, in random order.
pub fn pick_any(images: usize, wanted: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..images).collect();
    order.shuffle(rng);
    order.truncate(wanted);
    order
}

/// The fewest stones of a class that can be split: one to learn from, one to test.
pub const FEWEST: usize = 2;

/// The images of each stone, stones in order of their first image; only images that
/// count.
fn members(stones: &[usize], counts: impl Fn(usize) -> bool) -> Vec<Vec<usize>> {
    let mut members: Vec<(usize, Vec<usize>)> = Vec::new();
    for (image, stone) in stones.iter().enumerate().filter(|(image, _)| counts(*image)) {
        match members.iter_mut().find(|(known, _)| known == stone) {
            Some((_, images)) => images.push(image),
            None => members.push((*stone, vec![image])),
        }
    }
    members.into_iter().map(|(_, images)| images).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    fn each_its_own(images: usize) -> Vec<usize> {
        (0..images).collect()
    }

    fn roles(stones: &[usize], wanted: usize) -> Option<Vec<Role>> {
        set_apart(stones, wanted, &mut stream(Seed(1), "apart", 0))
    }

    fn dealt(stones: &[usize], roles: &[Role], folds: u32, number: u64) -> Option<Vec<Option<u32>>> {
        let testable: Vec<bool> = roles.iter().map(|role| role.testable).collect();
        deal(stones, &testable, folds, 0.2, &mut stream(Seed(1), "deal", number))
    }

    fn tested(dealt: &[Option<u32>], fold: u32) -> usize {
        dealt.iter().filter(|dealt| **dealt == Some(fold)).count()
    }

    #[test]
    fn one_fold_tests_the_fraction_and_never_a_generator_image() {
        for images in 2..80 {
            for generators in [0, 8] {
                let stones = each_its_own(images);
                let roles = roles(&stones, generators).unwrap();
                let dealt = dealt(&stones, &roles, 1, 0).unwrap();
                let wanted = ((images as f64 * 0.2).round() as usize).max(1);
                let learnt = roles.iter().filter(|role| role.generator).count();
                assert_eq!(learnt, generators.min(images - 1));
                assert_eq!(tested(&dealt, 0), wanted.min(images - learnt), "{images} images");
                assert!(roles.iter().zip(&dealt).all(|(role, fold)| role.testable || fold.is_none()));
                assert!(roles.iter().all(|role| role.generator != role.testable));
            }
        }
    }

    #[test]
    fn folds_deal_every_other_image_once_and_evenly_and_each_split_anew() {
        let stones = each_its_own(23);
        let roles = roles(&stones, 8).unwrap();
        assert_eq!(roles.iter().filter(|role| role.generator).count(), 8);
        let splits = [0, 1, 0].map(|number| dealt(&stones, &roles, 5, number).unwrap());
        for split in &splits {
            assert_eq!((0..5).map(|fold| tested(split, fold)).collect::<Vec<_>>(), [3; 5]);
        }
        assert!(splits[0] == splits[2] && splits[0] != splits[1]);
    }

    #[test]
    fn too_few_images_cannot_be_split() {
        assert_eq!(roles(&each_its_own(1), 0), None);
        assert_eq!(roles(&[0; 9], 0), None);
        let (all, none) = (vec![Role { generator: false, testable: true }; 1], vec![]);
        assert_eq!((dealt(&[0], &all, 5, 0), dealt(&[], &none, 5, 0)), (None, None));
    }

    #[test]
    fn with_fewer_images_than_folds_each_is_tested_once_and_some_folds_test_none() {
        let four = roles(&each_its_own(4), 0).unwrap();
        let dealt_four = dealt(&each_its_own(4), &four, 5, 0).unwrap();
        assert_eq!((0..5).map(|fold| tested(&dealt_four, fold)).collect::<Vec<_>>(), [1, 1, 1, 1, 0]);
    }

    #[test]
    fn a_generator_gets_its_images_whatever_the_folds_and_one_is_left_to_test() {
        // A class of eleven keeps eight for its generator; five folds test the other three.
        let eleven = roles(&each_its_own(11), 8).unwrap();
        assert_eq!(eleven.iter().filter(|role| role.generator).count(), 8);
        let dealt_eleven = dealt(&each_its_own(11), &eleven, 5, 0).unwrap();
        assert_eq!((0..5).map(|fold| tested(&dealt_eleven, fold)).collect::<Vec<_>>(), [1, 1, 1, 0, 0]);
        for images in 2..12 {
            let roles = roles(&each_its_own(images), 8).unwrap();
            assert_eq!(roles.iter().filter(|role| role.generator).count(), 8.min(images - 1), "{images}");
        }
        // Fewer are among those that more are.
        let [few, many] = [3, 8].map(|wanted| roles(&each_its_own(30), wanted).unwrap());
        assert!(few.iter().zip(&many).all(|(few, many)| !few.generator || many.generator));
        // Nine pictures of two stones: only without the small one are there eight.
        let stones = [0, 0, 0, 0, 0, 0, 0, 0, 1];
        for number in 0..20 {
            let roles = set_apart(&stones, 8, &mut stream(Seed(number), "apart", 0)).unwrap();
            assert_eq!(roles.iter().filter(|role| role.generator).count(), 8);
            assert!(roles[8].testable);
        }
    }

    #[test]
    fn an_image_of_an_unknown_stone_is_one_of_its_own() {
        let stones = [Some(3), None, Some(3), None, Some(0)];
        assert_eq!(numbered(&stones), [3, 5, 3, 7, 0]);
        assert_eq!((count(&stones), count(&[])), (4, 0));
    }

    #[test]
    fn images_of_one_stone_stay_together() {
        // 24 images of 9 stones, of 1 to 6 images.
        let stones: Vec<usize> = [6, 1, 3, 2, 4, 2, 1, 3, 2].iter().zip(0..).flat_map(|(n, i)| vec![i; *n]).collect();
        for folds in [1, 2, 3] {
            for wanted in [0, 5, 24] {
                let roles = roles(&stones, wanted).unwrap();
                let dealt = dealt(&stones, &roles, folds, 0).unwrap();
                let sides: BTreeSet<_> = stones.iter().zip(&dealt).collect();
                assert_eq!(sides.len(), 9, "a stone is on two sides");
                let learnt: Vec<_> = roles.iter().filter(|role| role.generator).collect();
                assert!(learnt.iter().all(|role| !role.testable) && learnt.len() <= wanted);
                let left = members(&stones, |image| roles[image].testable).len();
                assert!((0..folds.min(left as u32)).all(|fold| tested(&dealt, fold) > 0));
            }
        }
        assert_eq!(roles(&stones, 5).unwrap().iter().filter(|role| role.generator).count(), 5);
    }

    #[test]
    fn a_stone_larger_than_the_test_side_is_left_to_learn_from() {
        let stones = [vec![0; 40], vec![1; 7], vec![2; 3]].concat();
        let roles = roles(&stones, 0).unwrap();
        assert_eq!(tested(&dealt(&stones, &roles, 1, 0).unwrap(), 0), 10);
        // Each is larger than a fifth: the smallest is tested.
        let stones = [vec![0; 9], vec![1; 5], vec![2; 6]].concat();
        assert_eq!(tested(&dealt(&stones, &roles[..20], 1, 0).unwrap(), 0), 5);
    }
}
