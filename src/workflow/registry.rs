//! Every node class by name.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::class::Class;
use super::nodes;

/// Every class, by family in the order of [`nodes::FAMILIES`].
pub fn all() -> impl Iterator<Item = &'static Class> {
    nodes::FAMILIES.iter().flat_map(|family| family.iter())
}

/// The class called `name`.
pub fn find(name: &str) -> Option<&'static Class> {
    static BY_NAME: OnceLock<HashMap<&'static str, &'static Class>> = OnceLock::new();
    BY_NAME.get_or_init(|| all().map(|class| (class.name, class)).collect()).get(name).copied()
}

/// Up to two classes whose names are nearest to `name`, if any is near.
pub fn near(name: &str) -> Vec<&'static str> {
    let name = name.to_lowercase();
    let mut near: Vec<(usize, &'static str)> = all()
        .map(|class| (distance(&name, &class.name.to_lowercase()), class.name))
        .filter(|(distance, _)| *distance <= 1 + name.len().min(60) / 4)
        .collect();
    near.sort_unstable();
    near.into_iter().take(2).map(|(_, name)| name).collect()
}

/// Letters to change, add or take out (Levenshtein), over the first 60 bytes.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (&a.as_bytes()[..a.len().min(60)], &b.as_bytes()[..b.len().min(60)]);
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = change.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::class::Kind;
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_class_is_there_once_and_its_defaults_are_allowed() {
        let mut names = HashSet::new();
        for class in all() {
            assert!(names.insert(class.name), "{} is there twice", class.name);
            assert!(std::ptr::eq(find(class.name).unwrap(), class));
            let mut inputs = HashSet::new();
            for input in class.inputs {
                assert!(inputs.insert(input.name), "{}: input {} is there twice", class.name, input.name);
                assert!(!(input.live && input.ignored), "{}.{}", class.name, input.name);
                let Some(default) = input.default() else { continue };
                let again = super::super::plan::setting(&input.kind, &default.json());
                assert_eq!(again, Ok(default), "{}.{}", class.name, input.name);
                if let Kind::Choice { of, .. } = input.kind {
                    assert!(of.len() == of.iter().collect::<HashSet<_>>().len(), "{}.{}", class.name, input.name);
                }
            }
        }
    }

    #[test]
    fn a_misspelt_class_has_a_near_one() {
        assert_eq!(near("Imageinvert"), ["ImageInvert"]);
        assert_eq!(near("ImageBlnd"), ["ImageBlend", "ImageBlur"]);
        assert!(near("TotallyDifferentThing").is_empty());
    }
}
