//! The rows of each table.

use std::fmt::Write as _;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::Options;
use super::lines::{Writer, timestamp};
use super::shelves::{DEPARTMENTS, Shelf};
use super::words::{BRANDS, FIRST_NAMES, LAST_NAMES, OPENINGS, SENTENCES, SERIES};

/// How one table is filled.
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: &'static str,
    /// How often `write` is called, with 1, 2, …
    pub(super) steps: fn(&Options) -> u64,
    pub(super) write: fn(&mut Writer, &Options, u64),
}

pub(super) const TABLES: &[Table] = &[
    Table {
        name: "users",
        columns: "id, email, full_name, role, created_at, updated_at",
        steps: |_| USERS,
        write: user,
    },
    Table {
        name: "categories",
        columns: "id, parent_id, name, slug, description, sort_order, created_at, updated_at",
        steps: |_| category_count(),
        write: category,
    },
    Table {
        name: "parts",
        columns: "id, parent_id, category_id, sku, part_name, brand, description, is_active, created_at, updated_at",
        steps: |options| options.parts,
        write: part,
    },
    Table {
        name: "stock_levels",
        columns: "id, part_id, current_stock, reserved_quantity, min_stock_level, last_updated_by, created_at, updated_at",
        steps: |options| options.parts,
        write: stock,
    },
    Table {
        name: "part_prices",
        columns: "id, part_id, price_type, price, currency, min_quantity, valid_from, valid_to, created_at, updated_at",
        steps: |options| options.parts,
        write: part_prices,
    },
    Table {
        name: "prices",
        columns: "id, part_id, price, currency, created_at, updated_at",
        steps: |options| options.parts,
        write: legacy_price,
    },
    Table {
        name: "part_images",
        columns: "id, part_id, url, alt_text, sort_order, is_primary, created_at, updated_at",
        steps: |options| options.parts,
        write: images,
    },
    Table {
        name: "part_specifications",
        columns: "id, part_id, spec_name, spec_value, unit, sort_order, created_at, updated_at",
        steps: |options| options.parts,
        write: specifications,
    },
];

const USERS: u64 = 40;
/// Ids are handed out in blocks, so that a row's id follows from its part.
const PRICES_PER_PART: u64 = 4;
const IMAGES_PER_PART: u64 = 4;
const SPECIFICATIONS_PER_PART: u64 = 5;
/// A part and its next neighbours may form a family of variants.
const FAMILY: u64 = 6;

/// Returns the randomness of one row; different for each table.
fn dice(options: &Options, table: u64, number: u64) -> SmallRng {
    let mixed = options.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (table << 56) ^ number;
    SmallRng::seed_from_u64(mixed)
}

fn pick<T: Copy>(dice: &mut SmallRng, from: &[T]) -> T {
    from[dice.random_range(0..from.len())]
}

/// Writes both time columns: the catalogue grew over the two years before this date.
fn times(line: &mut Writer, dice: &mut SmallRng) {
    let (day, second) = (dice.random_range(0..730), dice.random_range(0..86_400));
    let since = 1_704_067_200 + day * 86_400 + second;
    let at = timestamp(since);
    line.text(&at).text(&at).end();
}

fn user(line: &mut Writer, options: &Options, id: u64) {
    let dice = &mut dice(options, 1, id);
    let (first, last) = (pick(dice, &FIRST_NAMES), pick(dice, &LAST_NAMES));
    let role = match id {
        1..=5 => "admin",
        6..=15 => "editor",
        _ => "customer",
    };
    line.value(id).value(format_args!("user{id}@shop.example")).text(&format!("{first} {last}")).text(role);
    times(line, dice);
}

fn category_count() -> u64 {
    DEPARTMENTS.iter().map(|(_, shelves)| 1 + shelves.len() as u64).sum()
}

/// Returns every category in order: id, parent, name, and its shelf if it is a leaf.
fn categories() -> impl Iterator<Item = (u64, Option<u64>, &'static str, Option<&'static Shelf>)> {
    let mut next = 1;
    DEPARTMENTS.iter().flat_map(move |(name, shelves)| {
        let head = next;
        next += 1 + shelves.len() as u64;
        let leaves =
            shelves.iter().zip(head + 1..).map(move |(shelf, id)| (id, Some(head), shelf.category, Some(shelf)));
        std::iter::once((head, None, *name, None)).chain(leaves)
    })
}

fn category(line: &mut Writer, options: &Options, number: u64) {
    let Some((id, parent, name, _)) = categories().find(|(id, ..)| *id == number) else {
        return;
    };
    line.value(id);
    match parent {
        Some(parent) => line.value(parent),
        None => line.null(),
    };
    let slug = name.to_lowercase().replace(' ', "-");
    line.text(name).text(&slug).text(&format!("Everything in {}.", name.to_lowercase())).value(id * 10);
    times(line, &mut dice(options, 2, id));
}

/// What all tables must agree on about a part.
struct Part {
    head: Option<u64>,
    category: u64,
    shelf: &'static Shelf,
    brand: (&'static str, &'static str),
    /// Retail price in cents.
    price: u32,
}

fn traits(options: &Options, id: u64) -> Part {
    let first = (id - 1) / FAMILY * FAMILY + 1;
    let family = &mut dice(options, 3, first);
    let variants = if family.random_ratio(1, 4) { family.random_range(1..FAMILY) } else { 0 };
    let head = (id > first && id - first <= variants).then_some(first);
    let dice = &mut dice(options, 4, head.unwrap_or(id));
    let leaves = || categories().filter_map(|(id, _, _, shelf)| shelf.map(|shelf| (id, shelf)));
    let chosen = dice.random_range(0..leaves().count());
    let (category, shelf) = leaves().nth(chosen).unwrap_or((2, &DEPARTMENTS[0].1[0]));
    let brand = pick(dice, &BRANDS);
    let (low, high) = shelf.price;
    let spread = f64::from(high) / f64::from(low);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between two u32")]
    let cents = (f64::from(low) * spread.powf(dice.random::<f64>())) as u32;
    // A price ends like a price: 12.99, 12.49, 12.90.
    let price = cents / 100 * 100 + pick(dice, &[99, 49, 90, 95]);
    Part { head, category, shelf, brand, price }
}

fn part(line: &mut Writer, options: &Options, id: u64) {
    let of = traits(options, id);
    let dice = &mut dice(options, 5, id);
    line.value(id);
    match of.head {
        Some(head) => line.value(head),
        None => line.null(),
    };
    let (brand, code) = of.brand;
    // Variants differ in a number; the rest of the name is the family's.
    let family = &mut self::dice(options, 11, of.head.unwrap_or(id));
    let (noun, quality) = (pick(family, &of.shelf.nouns), pick(family, &of.shelf.qualities));
    let series = pick(family, &SERIES);
    let name = format!("{brand} {series} {quality} {noun} {}", 100 + dice.random_range(0..900));
    line.value(of.category)
        .value(format_args!("{code}-{id:06}-{}", id * 7 % 97))
        .text(&name)
        .text(brand)
        .text(&description(dice, &name))
        .text(if dice.random_ratio(1, 50) { "f" } else { "t" });
    times(line, dice);
}

/// Returns some sentences. One part in two hundred has a whole manual, long enough to be stored out of line.
fn description(dice: &mut SmallRng, name: &str) -> String {
    let mut text = format!("{name}. {}", pick(dice, &OPENINGS));
    for _ in 0..dice.random_range(1..4) {
        text.push(' ');
        text.push_str(pick(dice, &SENTENCES));
    }
    if dice.random_ratio(1, 200) {
        text.push_str("\n\nTest report, one sample per line:");
        for sample in 1..=dice.random_range(150..400) {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n{sample:>4}: {:016x}{:016x}", dice.random::<u64>(), dice.random::<u64>());
        }
    }
    text
}

fn stock(line: &mut Writer, options: &Options, id: u64) {
    let dice = &mut dice(options, 6, id);
    let current = if dice.random_ratio(1, 20) { 0 } else { dice.random_range(1..400) };
    line.value(id)
        .value(id)
        .value(current)
        .value(dice.random_range(0..=current / 10))
        .value(pick(dice, &[0, 5, 10, 20, 50]))
        .value(dice.random_range(1..=15));
    times(line, dice);
}

fn cents(line: &mut Writer, cents: u32) -> &mut Writer {
    line.value(format_args!("{}.{:02}", cents / 100, cents % 100))
}

fn part_prices(line: &mut Writer, options: &Options, part: u64) {
    let retail = traits(options, part).price;
    let dice = &mut dice(options, 7, part);
    let types = [("retail", 100, 1, 1), ("wholesale", 72, 10, 1), ("member", 93, 1, 2), ("sale", 80, 1, 8)];
    for ((price_type, percent, quantity, one_in), id) in types.into_iter().zip((part - 1) * PRICES_PER_PART + 1..) {
        if !dice.random_ratio(1, one_in) {
            continue;
        }
        line.value(id).value(part).text(price_type);
        cents(line, retail * percent / 100).text("EUR").value(quantity).text("2026-01-01 00:00:00+00");
        if price_type == "sale" {
            line.text("2027-06-30 22:00:00+00");
        } else {
            line.null();
        }
        times(line, dice);
    }
}

fn legacy_price(line: &mut Writer, options: &Options, part: u64) {
    line.value(part).value(part);
    cents(line, traits(options, part).price).text("EUR");
    times(line, &mut dice(options, 8, part));
}

fn images(line: &mut Writer, options: &Options, part: u64) {
    let dice = &mut dice(options, 9, part);
    let views = ["front view", "side view", "in use", "packaging"];
    let count = dice.random_range(1..=IMAGES_PER_PART);
    for (number, view) in (0..count).zip(views) {
        line.value((part - 1) * IMAGES_PER_PART + 1 + number)
            .value(part)
            .value(format_args!("/media/parts/{part}/{}.webp", number + 1))
            .text(view)
            .value(number)
            .text(if number == 0 { "t" } else { "f" });
        times(line, dice);
    }
}

fn specifications(line: &mut Writer, options: &Options, part: u64) {
    let of = traits(options, part);
    let dice = &mut dice(options, 10, part);
    let first = (part - 1) * SPECIFICATIONS_PER_PART + 1;
    for ((name, unit, low, high), number) in of.shelf.measures.into_iter().zip(0..) {
        let tenths = dice.random_range(low..=high);
        line.value(first + number)
            .value(part)
            .text(name)
            .value(format_args!("{}.{}", tenths / 10, tenths % 10))
            .text(unit)
            .value(number);
        times(line, dice);
    }
    let (name, values) = of.shelf.property;
    line.value(first + 3).value(part).text(name).text(pick(dice, &values)).null().value(3);
    times(line, dice);
    if dice.random_bool(0.4) {
        line.value(first + 4).value(part).text("Brand").text(of.brand.0).null().value(4);
        times(line, dice);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(seed: u64, table: &Table) -> String {
        let (mut writer, options) = (Writer::default(), Options { parts: 50, seed });
        for number in 1..=(table.steps)(&options) {
            (table.write)(&mut writer, &options, number);
        }
        String::from_utf8(writer.take().to_vec()).unwrap()
    }

    #[test]
    fn the_same_seed_gives_the_same_shop_and_another_seed_another() {
        for table in TABLES {
            assert_eq!(text(1, table), text(1, table), "{}", table.name);
            assert_ne!(text(1, table), text(2, table), "{}", table.name);
        }
    }

    #[test]
    fn every_line_has_a_value_for_every_column() {
        for table in TABLES {
            let columns = table.columns.split(',').count();
            for line in text(1, table).lines() {
                assert_eq!(line.split('\t').count(), columns, "{}: {line}", table.name);
            }
        }
    }

    #[test]
    fn a_variants_head_is_a_head() {
        let options = Options { parts: 600, seed: 3 };
        let heads: Vec<u64> = (1..=options.parts).filter_map(|id| traits(&options, id).head).collect();
        assert!(!heads.is_empty());
        assert!(heads.iter().all(|head| traits(&options, *head).head.is_none()));
    }
}
