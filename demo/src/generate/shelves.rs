//! The departments of the shop and what stands on their shelves: parts for bicycles, cars and machines.

/// A leaf of the category tree, and what is sold in it.
pub(super) struct Shelf {
    pub(super) category: &'static str,
    pub(super) nouns: [&'static str; 4],
    pub(super) qualities: [&'static str; 5],
    /// Name, unit and range of a measure, in tenths.
    pub(super) measures: [(&'static str, &'static str, u32, u32); 3],
    /// Name and values of a property.
    pub(super) property: (&'static str, [&'static str; 4]),
    /// Range of the price in cents.
    pub(super) price: (u32, u32),
}

/// The departments, each with its shelves.
pub(super) const DEPARTMENTS: [(&str, &[Shelf]); 6] = [
    (
        "Brakes",
        &[
            Shelf {
                category: "Brake Pads",
                nouns: ["Brake Pad Set", "Disc Pad Pair", "Brake Shoe Set", "Pad Kit"],
                qualities: ["Ceramic", "Sintered", "Organic", "Low-Dust", "Semi-Metallic"],
                measures: [
                    ("Thickness", "mm", 40, 190),
                    ("Width", "mm", 180, 1560),
                    ("Friction coefficient", "µ", 3, 6),
                ],
                property: ("Axle", ["front", "rear", "front and rear", "universal"]),
                price: (1190, 14900),
            },
            Shelf {
                category: "Brake Discs",
                nouns: ["Brake Disc", "Vented Rotor", "Floating Rotor", "Disc Pair"],
                qualities: ["Coated", "Slotted", "High-Carbon", "Drilled", "Lightweight"],
                measures: [("Diameter", "mm", 1400, 3800), ("Thickness", "mm", 18, 320), ("Weight", "kg", 1, 98)],
                property: ("Mount", ["6-bolt", "Centerlock", "5 × 112", "5 × 108"]),
                price: (1990, 28900),
            },
            Shelf {
                category: "Brake Hydraulics",
                nouns: ["Brake Caliper", "Master Cylinder", "Brake Hose", "Bleed Kit"],
                qualities: ["Remanufactured", "Four-Piston", "Stainless", "Braided", "Compact"],
                measures: [("Bore", "mm", 100, 600), ("Length", "mm", 800, 9000), ("Pressure", "bar", 600, 2200)],
                property: ("Fluid", ["DOT 4", "DOT 5.1", "Mineral oil", "LHM+"]),
                price: (990, 24900),
            },
        ],
    ),
    (
        "Drivetrain",
        &[
            Shelf {
                category: "Chains",
                nouns: ["Chain", "Roller Chain", "Timing Chain", "Chain Kit"],
                qualities: ["Nickel-Plated", "Waxed", "Hollow-Pin", "Reinforced", "Silent"],
                measures: [("Pitch", "mm", 80, 254), ("Links", "pcs", 1000, 1260), ("Width", "mm", 50, 170)],
                property: ("Speeds", ["9", "10", "11", "12"]),
                price: (1290, 9900),
            },
            Shelf {
                category: "Bearings",
                nouns: ["Deep Groove Bearing", "Wheel Bearing Kit", "Needle Bearing", "Angular Contact Bearing"],
                qualities: ["Sealed", "Hybrid Ceramic", "Stainless", "High-Temperature", "Low-Friction"],
                measures: [
                    ("Inner diameter", "mm", 50, 800),
                    ("Outer diameter", "mm", 160, 1400),
                    ("Width", "mm", 40, 420),
                ],
                property: ("Seal", ["2RS", "ZZ", "open", "LLU"]),
                price: (290, 11900),
            },
            Shelf {
                category: "Clutches",
                nouns: ["Clutch Kit", "Pressure Plate", "Release Bearing", "Dual-Mass Flywheel"],
                qualities: ["Sport", "Self-Adjusting", "Heavy-Duty", "Three-Piece", "Remanufactured"],
                measures: [("Diameter", "mm", 1800, 2600), ("Teeth", "pcs", 180, 280), ("Torque", "Nm", 1200, 6000)],
                property: ("Hub profile", ["1\" × 24N", "22 × 25-20N", "26 × 29-23N", "7/8\" × 20N"]),
                price: (5900, 78900),
            },
        ],
    ),
    (
        "Electrics",
        &[
            Shelf {
                category: "Batteries",
                nouns: ["Starter Battery", "E-Bike Battery", "AGM Battery", "Battery Pack"],
                qualities: ["Maintenance-Free", "Deep-Cycle", "Cold-Start", "Compact", "Long-Life"],
                measures: [("Capacity", "Ah", 100, 1100), ("Voltage", "V", 120, 520), ("Weight", "kg", 21, 265)],
                property: ("Terminal", ["left +", "right +", "top", "XT60"]),
                price: (4900, 89900),
            },
            Shelf {
                category: "Lighting",
                nouns: ["Headlight", "Tail Light", "Work Lamp", "Bulb Pair"],
                qualities: ["LED", "Matrix", "Dimmable", "Daylight", "Shock-Proof"],
                measures: [
                    ("Luminous flux", "lm", 500, 42000),
                    ("Power", "W", 10, 1300),
                    ("Colour temperature", "K", 27000, 65000),
                ],
                property: ("Socket", ["H4", "H7", "W5W", "fixed"]),
                price: (690, 34900),
            },
            Shelf {
                category: "Sensors",
                nouns: ["Wheel Speed Sensor", "Lambda Sensor", "Torque Sensor", "Parking Sensor"],
                qualities: ["Calibrated", "Wideband", "Plug-In", "Shielded", "OE-Grade"],
                measures: [
                    ("Cable length", "mm", 1200, 14000),
                    ("Resistance", "Ω", 20, 18000),
                    ("Weight", "g", 180, 2400),
                ],
                property: ("Connector", ["2-pin", "3-pin", "4-pin", "M12"]),
                price: (1490, 18900),
            },
        ],
    ),
    (
        "Suspension",
        &[
            Shelf {
                category: "Shock Absorbers",
                nouns: ["Shock Absorber", "Coilover Kit", "Air Shock", "Strut"],
                qualities: ["Gas-Filled", "Adjustable", "Twin-Tube", "Monotube", "Touring"],
                measures: [("Length", "mm", 1900, 6200), ("Stroke", "mm", 450, 2100), ("Rod diameter", "mm", 80, 250)],
                property: ("Axle", ["front left", "front right", "rear", "rear pair"]),
                price: (3900, 119_900),
            },
            Shelf {
                category: "Control Arms",
                nouns: ["Control Arm", "Ball Joint", "Tie Rod End", "Stabiliser Link"],
                qualities: ["Forged", "Cast", "Reinforced", "Greasable", "Aluminium"],
                measures: [("Length", "mm", 600, 5200), ("Cone", "mm", 110, 220), ("Weight", "kg", 3, 52)],
                property: ("Side", ["left", "right", "both", "upper"]),
                price: (1290, 21900),
            },
        ],
    ),
    (
        "Engine",
        &[
            Shelf {
                category: "Filters",
                nouns: ["Oil Filter", "Air Filter", "Cabin Filter", "Fuel Filter"],
                qualities: ["Activated-Carbon", "Washable", "Long-Life", "Cartridge", "Sport"],
                measures: [
                    ("Height", "mm", 300, 2800),
                    ("Diameter", "mm", 480, 1900),
                    ("Filter area", "cm²", 9000, 180_000),
                ],
                property: ("Thread", ["M20 × 1.5", "M22 × 1.5", "3/4\"-16 UNF", "none"]),
                price: (490, 7900),
            },
            Shelf {
                category: "Gaskets and Seals",
                nouns: ["Cylinder Head Gasket", "Seal Kit", "O-Ring Set", "Shaft Seal"],
                qualities: ["Multi-Layer Steel", "Viton", "NBR", "PTFE", "Heat-Resistant"],
                measures: [("Thickness", "mm", 5, 90), ("Bore", "mm", 80, 960), ("Temperature", "°C", 1000, 2800)],
                property: ("Hardness", ["70 Shore A", "80 Shore A", "90 Shore A", "n/a"]),
                price: (190, 12900),
            },
            Shelf {
                category: "Ignition",
                nouns: ["Spark Plug", "Glow Plug", "Ignition Coil", "Ignition Lead Set"],
                qualities: ["Iridium", "Platinum", "Double-Iridium", "Copper-Core", "Fast-Heat"],
                measures: [
                    ("Electrode gap", "mm", 5, 13),
                    ("Thread length", "mm", 95, 265),
                    ("Hex size", "mm", 140, 208),
                ],
                property: ("Heat range", ["5", "6", "7", "8"]),
                price: (390, 15900),
            },
        ],
    ),
    (
        "Workshop",
        &[
            Shelf {
                category: "Hand Tools",
                nouns: ["Torque Wrench", "Socket Set", "Hex Key Set", "Circlip Pliers"],
                qualities: ["Chrome-Vanadium", "Insulated", "Ratcheting", "Slim", "Calibrated"],
                measures: [("Length", "mm", 600, 6400), ("Torque", "Nm", 20, 3400), ("Weight", "g", 900, 48000)],
                property: ("Drive", ["1/4\"", "3/8\"", "1/2\"", "3/4\""]),
                price: (690, 32900),
            },
            Shelf {
                category: "Fluids and Greases",
                nouns: ["Engine Oil 5 l", "Bearing Grease", "Chain Lube", "Coolant 5 l"],
                qualities: ["Fully Synthetic", "Lithium", "Biodegradable", "Dry", "Long-Drain"],
                measures: [
                    ("Content", "ml", 1000, 50000),
                    ("Density", "kg/dm³", 8, 11),
                    ("Flash point", "°C", 1800, 2600),
                ],
                property: ("Grade", ["5W-30", "0W-20", "NLGI 2", "G12++"]),
                price: (490, 9900),
            },
        ],
    ),
];
