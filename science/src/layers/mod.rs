//! Layers that networks are built of: the one door by which convolutions, products and
//! everything else of `burn::nn` reach them. Another implementation of a layer enters here, as
//! our own kernels do; a test keeps other files of the crate from naming burn's.
//!
//! Convolutions and products start with all weights zero, normalisations as the identity:
//! `weights::initialise` or `weights::load` fills them. The names of their parameters are those
//! of PyTorch.
//!
//! | module | what it holds |
//! |---|---|
//! | [`conv`] | convolutions |
//! | [`linear`] | fully connected layers |
//! | [`norm`] | normalisations |
//! | [`activation`] | functions of single values, and softmax |
//! | `kernels` | those of them that our own kernels compute on processors |
//! | [`resample`] | maps of another size: pooling, interpolation, pixel shuffling |

pub mod activation;
pub mod conv;
mod kernels;
pub mod linear;
pub mod norm;
pub mod resample;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    /// The paths below `burn::` in a source, each with what a `use` lists below it.
    fn paths(source: &str) -> impl Iterator<Item = Vec<&str>> {
        let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '*';
        source.split("burn::").skip(1).map(move |rest| {
            let end = rest.find(|c: char| !is_name(c) && !c.is_whitespace() && !":{},".contains(c));
            let names = rest[..end.unwrap_or(rest.len())].split(|c: char| !is_name(c));
            names.filter(|name| !name.is_empty()).collect()
        })
    }

    /// Tells whether a source names a layer of burn: as a module or as a function.
    fn passes_the_door(source: &str) -> bool {
        let is_layer = |path: Vec<&str>| {
            let has = |name: &str| path.contains(&name);
            has("nn") || has("activation") || has("*") || has("as") || has("tensor") && has("module")
        };
        paths(source).any(is_layer)
    }

    fn sources(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let files = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
        files.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
    }

    #[test]
    fn layers_of_burn_are_named_in_this_folder_only() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let (own, others): (Vec<PathBuf>, Vec<PathBuf>) =
            sources(&root).into_iter().partition(|path| path.starts_with(root.join("layers")));
        let passes = |path: &&PathBuf| passes_the_door(&fs::read_to_string(path).unwrap());
        assert!(own.iter().any(|path| passes(&path)), "the test no longer finds them even here");
        let stray: Vec<&PathBuf> = others.iter().filter(passes).collect();
        assert!(stray.is_empty(), "{stray:?}");
    }

    #[test]
    fn every_way_to_name_a_layer_of_burn_is_noticed() {
        for source in [
            "use burn::nn::conv::Conv2d;",
            "use burn::nn::{Linear, Relu};",
            "use burn::{module::Module, nn};",
            "use burn::tensor::{\n    Tensor,\n    activation::relu,\n};",
            "let y = burn::tensor::activation::gelu(x);",
            "use burn::tensor::module::conv2d;",
            "use burn::tensor::*;",
            "use burn::{tensor::*, nn};",
        ] {
            assert!(passes_the_door(source), "{source}");
        }
        assert!(!passes_the_door("use burn::module::Module;\nuse burn::tensor::{Device, Tensor};"));
    }
}
