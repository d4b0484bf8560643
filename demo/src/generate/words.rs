//! The words of the catalogue. Every brand is invented.

/// Brands with the code that opens their article numbers.
pub(super) const BRANDS: [(&str, &str); 16] = [
    ("Bremhaus", "BRH"),
    ("Nordvik", "NVK"),
    ("Castellari", "CST"),
    ("Tarvo", "TRV"),
    ("Øresund Works", "ORW"),
    ("Kestrel & Hale", "KNH"),
    ("Lumeris", "LUM"),
    ("Voltanne", "VLT"),
    ("Halden", "HLD"),
    ("Maruto", "MRT"),
    ("O'Dwyer", "ODW"),
    ("Zellwerk", "ZWK"),
    ("Pinnace", "PNC"),
    ("Grünfeld", "GRF"),
    ("Sabarte", "SBT"),
    ("Quillon", "QLN"),
];

pub(super) const SERIES: [&str; 10] = ["Pro", "Eco", "X-Line", "Tour", "Classic", "Evo", "Race", "City", "HD", "Prime"];

pub(super) const OPENINGS: [&str; 5] = [
    "Made for daily use and tested well beyond it.",
    "A drop-in replacement for the original part.",
    "The workshop's favourite: fits at the first try.",
    "Developed together with independent garages.",
    "Built in small series and measured one by one.",
];

pub(super) const SENTENCES: [&str; 8] = [
    "Tolerances stay within ±0.05 mm over the whole service life.",
    "The surface is zinc-nickel plated and withstands 720 h of salt spray.",
    "Mounting material is included; a torque table is printed on the box.",
    "Delivered in plastic-free packaging.",
    "Do not combine with parts of other series on the same axle.",
    "Checked for \"wear pattern B\" according to the maker's own norm.",
    "Please compare the article number with the one on the old part before ordering.",
    "Replaces the predecessor without any change to the mounting points.",
];

pub(super) const FIRST_NAMES: [&str; 12] =
    ["Ada", "Jonas", "Mira", "Teodor", "Ines", "Björn", "Leila", "Oskar", "Priya", "Mateo", "Zoë", "Henrik"];

pub(super) const LAST_NAMES: [&str; 10] =
    ["Lindqvist", "Okafor", "Marsh", "Petrov", "Alvarez", "Weiß", "Tanaka", "O'Neill", "Dvořák", "Rossi"];
