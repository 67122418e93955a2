//! Data sets, views and classes of kidney stones.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One of the paper's three sets of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Dataset {
    /// Photographs by a CCD camera: ex vivo, uniform dark background.
    A,
    /// Synthetic images made from A.
    B,
    /// Endoscopic images: ex-vivo fragments in a simulated in-vivo scene.
    C,
}

/// Which side of a stone is seen. Each view has a family of models of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum View {
    /// The surface: the outside of the stone.
    Sur,
    /// The section: a cut through the stone.
    Sec,
}

/// A class of stone, named by its Daudon subtype (`Ia`, `IVa2`, …), which is
/// also the name of its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Class {
    /// Whewellite (WW).
    Ia,
    /// Weddellite (WD).
    #[serde(rename = "IIa")]
    Iia,
    /// Uric acid (UA).
    #[serde(rename = "IIIa")]
    Iiia,
    /// Carbapatite (CAR).
    #[serde(rename = "IVa")]
    Iva,
    /// Carbapatite, second subtype (CAR2).
    #[serde(rename = "IVa2")]
    Iva2,
    /// Struvite (STR).
    #[serde(rename = "IVc")]
    Ivc,
    /// Brushite (BRU).
    #[serde(rename = "IVd")]
    Ivd,
    /// Cystine (CYS).
    Va,
}

/// Number of classes in every data set.
pub const CLASSES: usize = 6;

impl Dataset {
    /// All three data sets.
    pub const ALL: [Dataset; 3] = [Dataset::A, Dataset::B, Dataset::C];

    /// The six classes in label order: the byte order of their folder names,
    /// as the authors' loader lists them. The four classes that A and C share
    /// keep the same index, which matters when a head trained on A or B goes on
    /// with C (ALGORITHM 0.2).
    pub fn classes(self) -> [Class; CLASSES] {
        use Class::*;
        match self {
            Dataset::A | Dataset::B => [Iva, Iva2, Ivc, Ivd, Ia, Va],
            Dataset::C => [Iiia, Iia, Ivc, Ivd, Ia, Va],
        }
    }

    /// The data set's title in the report.
    pub fn title(self) -> &'static str {
        match self {
            Dataset::A => "CCD",
            Dataset::B => "synthetic",
            Dataset::C => "endoscopic (ex vivo)",
        }
    }
}

impl View {
    /// Both views, in the paper's order.
    pub const ALL: [View; 2] = [View::Sur, View::Sec];

    /// `SUR` or `SEC`, also the folder's name.
    pub fn code(self) -> &'static str {
        match self {
            View::Sur => "SUR",
            View::Sec => "SEC",
        }
    }
}

impl Class {
    /// Every class of any data set, in byte order of the codes.
    pub const ALL: [Class; 8] = {
        use Class::*;
        [Iiia, Iia, Iva, Iva2, Ivc, Ivd, Ia, Va]
    };

    /// The subtype, also the folder's name.
    pub fn code(self) -> &'static str {
        match self {
            Class::Ia => "Ia",
            Class::Iia => "IIa",
            Class::Iiia => "IIIa",
            Class::Iva => "IVa",
            Class::Iva2 => "IVa2",
            Class::Ivc => "IVc",
            Class::Ivd => "IVd",
            Class::Va => "Va",
        }
    }

    /// The paper's abbreviation of the mineral.
    pub fn mineral(self) -> &'static str {
        match self {
            Class::Ia => "WW",
            Class::Iia => "WD",
            Class::Iiia => "UA",
            Class::Iva => "CAR",
            Class::Iva2 => "CAR2",
            Class::Ivc => "STR",
            Class::Ivd => "BRU",
            Class::Va => "CYS",
        }
    }

    /// The class of that folder name, if any.
    pub fn from_code(code: &str) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.code() == code)
    }

    /// The class that people call by this name, if any: its code, the paper's abbreviation or
    /// the mineral, in upper or lower case, also after a view and `Subtype_` as in the authors'
    /// folders (`SUR-Subtype_IVa2`).
    pub fn from_name(name: &str) -> Option<Class> {
        let name = name.trim().to_lowercase();
        let name = View::ALL
            .iter()
            .find_map(|view| name.strip_prefix(&view.code().to_lowercase())?.strip_prefix(['-', '_', ' ']))
            .unwrap_or(&name);
        let name = name.strip_prefix("subtype").map_or(name, |rest| rest.trim_start_matches(['_', '-', ' ']));
        Class::ALL.into_iter().find(|class| {
            class.code().to_lowercase() == name
                || class.mineral().to_lowercase() == name
                || class.aliases().contains(&name)
        })
    }

    /// Other names of the class, in lower case.
    fn aliases(self) -> &'static [&'static str] {
        match self {
            Class::Ia => &["whewellite"],
            Class::Iia => &["weddellite"],
            Class::Iiia => &["uric acid", "uric_acid", "uric-acid", "anhydrous uric acid", "acide urique"],
            // The paper writes both (ALGORITHM 8, number 17).
            Class::Iva => &["iva1", "carbapatite", "carbonate apatite"],
            Class::Iva2 => &["carbapatite 2", "carbapatite2"],
            Class::Ivc => &["struvite"],
            Class::Ivd => &["brushite"],
            Class::Va => &["cystine"],
        }
    }
}

impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_the_byte_order_of_folder_names() {
        for dataset in Dataset::ALL {
            let codes = dataset.classes().map(Class::code);
            assert!(codes.is_sorted(), "{codes:?}");
        }
        assert_eq!(Dataset::A.classes().map(Class::mineral), ["CAR", "CAR2", "STR", "BRU", "WW", "CYS"]);
        assert_eq!(Dataset::C.classes().map(Class::mineral), ["UA", "WD", "STR", "BRU", "WW", "CYS"]);
    }

    #[test]
    fn classes_are_known_by_the_names_that_people_give_their_folders() {
        for (name, class) in [
            ("SUR-Subtype_Ia", Class::Ia),
            ("SEC-Subtype_IVa2", Class::Iva2),
            ("WW", Class::Ia),
            ("Whewellite", Class::Ia),
            ("IVa1", Class::Iva),
            ("uric acid", Class::Iiia),
            ("sec_CYS", Class::Va),
        ] {
            assert_eq!(Class::from_name(name), Some(class), "{name}");
        }
        for class in Class::ALL {
            assert_eq!([class.code(), class.mineral()].map(Class::from_name), [Some(class); 2]);
        }
        for name in ["", "Ib", "SUR-", "Subtype_", "SURIa"] {
            assert_eq!(Class::from_name(name), None, "{name}");
        }
    }

    #[test]
    fn json_form_of_a_class_is_its_folder_name() {
        for class in Class::ALL {
            assert_eq!(serde_json::to_value(class).unwrap(), class.code());
            assert_eq!(Class::from_code(class.code()), Some(class));
        }
    }
}
