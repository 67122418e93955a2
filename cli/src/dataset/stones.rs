//! `manifest.csv` beside the pictures: which stone or patient each is of. Only which
//! are equal leaves this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use csv::{StringRecord, Trim};
use domain::study::stone::{Class, Dataset, View};

/// Columns that may name the stone, the one that keeps most pictures together first.
const IDS: [&str; 3] = ["patient_or_stone_id", "patient_id", "stone_id"];

/// Lines that cannot be used and are told one by one: a folder that is missing makes
/// many.
const LISTED: usize = 10;

/// A class of one half of one data set.
pub type Place = (Dataset, View, Class);

/// What a manifest says.
#[derive(Debug, Default)]
pub struct Stones {
    /// The stone or patient of each picture, by file name.
    pub of: BTreeMap<Place, BTreeMap<String, String>>,
    /// Lines that cannot be used, and what to do about each.
    pub problems: Vec<String>,
}

impl Stones {
    /// Reads a manifest; a manifest that is not there names no stones. `mask_of` says where the
    /// mask of a picture of a class is looked for.
    pub fn read(
        path: &Path,
        pictures: &BTreeMap<Place, Vec<String>>,
        mask_of: impl Fn(Place, &str) -> PathBuf,
    ) -> Self {
        let mut stones = Self::default();
        if !path.exists() {
            return stones;
        }
        let text = std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}; save it as UTF-8"));
        if let Err(problem) = text.and_then(|text| stones.take(&text, pictures, mask_of)) {
            stones.problems.push(problem);
        }
        let more = stones.problems.len().saturating_sub(LISTED);
        stones.problems.truncate(LISTED);
        if more > 0 {
            stones.problems.push(format!("and {more} more lines"));
        }
        let shown = path.display();
        stones.problems.iter_mut().for_each(|problem| *problem = format!("{shown}: {problem}"));
        stones
    }

    /// Reads all lines.
    fn take(
        &mut self,
        text: &str,
        pictures: &BTreeMap<Place, Vec<String>>,
        mask_of: impl Fn(Place, &str) -> PathBuf,
    ) -> Result<(), String> {
        let mut records = records(text.trim_start_matches('\u{feff}'))?.into_iter();
        let (_, header) = records.next().ok_or("is empty; write the names of the columns or remove it")?;
        let header: Vec<String> = header.iter().map(|name| name.trim_end_matches('?').to_lowercase()).collect();
        let column = |name: &str| header.iter().position(|known| known == name);
        let needed = |name: &str| column(name).ok_or(format!("has no column {name}; name it in the first line"));
        let (dataset, view, class) = (needed("dataset")?, needed("view")?, needed("class")?);
        let file = column("path").or(column("image_id")).ok_or("has neither a column path nor image_id; add one")?;
        let (id, mask) = (IDS.into_iter().find_map(column), column("mask"));
        for (line, fields) in records {
            let field = |column: usize| fields.get(column).unwrap_or_default();
            let place = match place(field(dataset), field(view), field(class)) {
                Ok(place) => place,
                Err(problem) => {
                    self.problems.push(format!("line {line}: {problem}"));
                    continue;
                }
            };
            let told = field(file).rsplit(['/', '\\']).next().unwrap_or("");
            let named = |name: &&String| {
                *name == told || Path::new(name.as_str()).file_stem().is_some_and(|stem| stem.to_str() == Some(told))
            };
            let Some(picture) = pictures.get(&place).and_then(|names| names.iter().find(named)) else {
                let (dataset, view, class) = place;
                let problem =
                    format!("there is no picture {told:?} in {dataset}/{view}/{class}; mend or remove the line");
                self.problems.push(format!("line {line}: {problem}"));
                continue;
            };
            let expected = mask_of(place, picture);
            if let Some(mask) = mask.map(field).filter(|mask| !mask.is_empty() && !expected.is_file()) {
                self.problems
                    .push(format!("line {line}: the mask {mask} is not at {}; put it there", expected.display()));
            }
            let Some(id) = id.map(field).filter(|id| !id.is_empty()) else { continue };
            let earlier = self.of.entry(place).or_default().insert(picture.clone(), id.to_owned());
            if let Some(earlier) = earlier.filter(|earlier| earlier != id) {
                self.problems
                    .push(format!("line {line}: {picture} is of {id} and, further up, of {earlier}; mend one"));
            }
        }
        Ok(())
    }

    /// The stones of a class by numbers, in the order of the pictures' names.
    pub fn numbers(&self, place: Place) -> BTreeMap<String, u32> {
        let mut numbers = BTreeMap::new();
        let number = |(picture, id): (&String, &String)| {
            let next = numbers.len() as u32;
            (picture.clone(), *numbers.entry(id.clone()).or_insert(next))
        };
        self.of.get(&place).into_iter().flatten().map(number).collect()
    }

    /// Pictures that are named, and the stones that they are of.
    pub fn counts(&self) -> [usize; 2] {
        let ids: Vec<_> = self.of.iter().flat_map(|(place, of)| of.values().map(move |id| (place, id))).collect();
        [ids.len(), ids.into_iter().collect::<BTreeSet<_>>().len()]
    }

    /// Names that stand in A and in C.
    pub fn in_both(&self) -> Vec<&str> {
        let of = |dataset: Dataset| -> BTreeSet<&str> {
            let own = self.of.iter().filter(move |((of, _, _), _)| *of == dataset);
            own.flat_map(|(_, of)| of.values().map(String::as_str)).collect()
        };
        of(Dataset::A).intersection(&of(Dataset::C)).copied().collect()
    }
}

fn place(dataset: &str, view: &str, class: &str) -> Result<Place, String> {
    let of_name = |known: &Dataset| known.to_string().eq_ignore_ascii_case(dataset);
    let dataset = [Dataset::A, Dataset::C]
        .into_iter()
        .find(of_name)
        .ok_or_else(|| format!("data set {dataset:?} is neither A nor C"))?;
    let view = View::ALL
        .into_iter()
        .find(|known| known.code().eq_ignore_ascii_case(view))
        .ok_or_else(|| format!("view {view:?} is neither SUR nor SEC"))?;
    let known = Class::from_name(class).filter(|class| dataset.classes().contains(class));
    let known = known.ok_or_else(|| {
        format!("class {class:?} is none of {dataset}, which are {}", dataset.classes().map(Class::code).join(", "))
    })?;
    Ok((dataset, view, known))
}

/// The records of a CSV text with the lines on which they begin, empty ones left out.
/// Where the first line has no comma, semicolons or tabs separate.
fn records(text: &str) -> Result<Vec<(u64, StringRecord)>, String> {
    let first = text.lines().next().unwrap_or("");
    let separator = *b",;\t".iter().find(|separator| first.contains(char::from(**separator))).unwrap_or(&b',');
    let mut reader = csv::ReaderBuilder::new();
    let mut reader =
        reader.delimiter(separator).has_headers(false).flexible(true).trim(Trim::All).from_reader(text.as_bytes());
    let (mut records, mut last) = (Vec::new(), (1, 0));
    for record in reader.records() {
        let record = record.map_err(|error| error.to_string())?;
        // The reader counts from the empty lines before a record.
        let (line, from) = record.position().map_or((0, 0), |at| (at.line(), at.byte() as usize));
        let empty =
            text[from..].bytes().take_while(|byte| b"\r\n".contains(byte)).filter(|byte| *byte == b'\n').count();
        last = (line + empty as u64, from);
        records.push((last.0, record));
    }
    // The reader takes one that is never closed for text up to the end.
    let (line, from) = last;
    if !text[from..].matches('"').count().is_multiple_of(2) {
        return Err(format!("line {line}: a quotation mark is not closed"));
    }
    records.retain(|(_, record)| record.iter().any(|field| !field.is_empty()));
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = (Dataset::A, View::Sur, Class::Ia);

    fn read(text: &str) -> Stones {
        let pictures = BTreeMap::from([(PLACE, ["1.png", "2.jpg", "3.png"].map(str::to_owned).to_vec())]);
        let mut stones = Stones::default();
        if let Err(problem) = stones.take(text, &pictures, |_, name| PathBuf::from(format!("masks/{name}"))) {
            stones.problems.push(problem);
        }
        stones
    }

    #[test]
    fn pictures_are_found_by_path_or_by_id_and_named_by_numbers() {
        for text in [
            "dataset,view,class,image_id,patient_or_stone_id?\nA,SUR,Ia,1,\"K, 7\"\nA,SUR,WW,2,K8\n\nA,SUR,Ia,3,\"K, 7\"",
            "dataset;view;class;path;stone_id\r\na;sur;Ia;raw/A/SUR/Ia/1.png;\"K, 7\"\r\nA;SUR;Ia;2.jpg;K8\r\nA;SUR;Ia;3.png;\"K, 7\"\r\n",
        ] {
            let stones = read(text);
            assert_eq!(stones.problems, Vec::<String>::new());
            let numbers = [("1.png", 0), ("2.jpg", 1), ("3.png", 0)].map(|(name, n)| (name.to_owned(), n));
            assert_eq!(stones.numbers(PLACE), BTreeMap::from(numbers));
            assert_eq!((stones.counts(), stones.of[&PLACE]["1.png"].as_str()), ([3, 2], "K, 7"));
        }
    }

    #[test]
    fn every_line_that_cannot_be_used_is_named() {
        let header = "dataset,view,class,path,stone_id,mask\n";
        for (line, part) in [
            ("B,SUR,Ia,1.png,K1,", "line 2: data set \"B\" is neither A nor C"),
            ("A,TOP,Ia,1.png,K1,", "line 2: view \"TOP\""),
            ("A,SUR,IIa,1.png,K1,", "line 2: class \"IIa\" is none of A, which are IVa, "),
            ("A,SUR,Ia,4.png,K1,", "line 2: there is no picture \"4.png\" in A/SUR/Ia"),
            ("A,SUR,Ia,1.png,K1,\nA,SUR,Ia,1.png,K2,", "line 3: 1.png is of K2 and, further up, of K1"),
            ("A,SUR,Ia,1.png,K1,else/1.png", "line 2: the mask else/1.png is not at masks/1.png"),
            ("A,SUR,Ia,\"1.png,K1,", "line 2: a quotation mark is not closed"),
        ] {
            let problems = read(&format!("{header}{line}")).problems;
            assert!(problems.len() == 1 && problems[0].contains(part), "{part}: {problems:?}");
        }
        // One within a field is a letter like others.
        assert_eq!(read(&format!("{header}A,SUR,Ia,1.png,5\" wide,\nA,SUR,Ia,2.jpg,K2,")).problems, [""; 0]);
        assert!(read("").problems[0].contains("is empty"));
        assert!(read("dataset,view,path\n").problems[0].contains("has no column class"));
        assert!(read("dataset,view,class\n").problems[0].contains("neither a column path nor image_id"));
        assert_eq!(read("dataset,view,class,path\nA,SUR,Ia,1.png\n").counts(), [0, 0]);
    }
}
