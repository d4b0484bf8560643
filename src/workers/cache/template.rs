//! Names of cache entries: `part:{part_id}:stock` is literal text and fields of an event's data.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The field that every event of a part has, whatever its mapping names.
pub(super) const PART_ID: &str = "part_id";

/// A name with places for fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Field(String),
}

/// A template that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTemplate {
    /// Braces that do not pair, or stand around nothing.
    #[error("has a brace without its partner, or an empty pair")]
    Braces,
    /// One name for all events, which only a group can have.
    #[error("contains no field; expected a name for each part, such as part:{{part_id}}")]
    NoField,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// See [`BadTemplate`].
    pub fn parse(text: &str) -> Result<Self, BadTemplate> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            let (literal, field) = rest.split_at(open);
            let close = field.find('}').filter(|close| *close > 1).ok_or(BadTemplate::Braces)?;
            if field[1..close].contains('{') {
                return Err(BadTemplate::Braces);
            }
            if !literal.is_empty() {
                pieces.push(Piece::Literal(literal.to_owned()));
            }
            pieces.push(Piece::Field(field[1..close].to_owned()));
            rest = &field[close + 1..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Literal(rest.to_owned()));
        }
        let template = Self { pieces };
        if template.fields().next().is_none() {
            return Err(BadTemplate::NoField);
        }
        Ok(template)
    }

    /// Returns the fields that it needs.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Field(name) => Some(name.as_str()),
            Piece::Literal(_) => None,
        })
    }

    /// Returns the name for an event with these fields.
    ///
    /// # Errors
    /// The first field that has no value there.
    pub fn render(&self, fields: &Fields<'_>) -> Result<String, &str> {
        let mut name = String::with_capacity(32);
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => name.push_str(text),
                Piece::Field(field) => fields.get(field, &mut name).ok_or(field.as_str())?,
            }
        }
        Ok(name)
    }
}

/// Some fields of an event's data.
#[derive(Debug)]
pub struct Fields<'a> {
    found: Vec<(&'a str, &'a RawValue)>,
}

impl<'a> Fields<'a> {
    /// Picks fields out of an event's data and skips the rest.
    ///
    /// # Errors
    /// Data that is no object.
    pub fn pick(data: &'a RawValue, wanted: &'a [String]) -> Result<Self, serde_json::Error> {
        let mut json = serde_json::Deserializer::from_str(data.get());
        let found = json.deserialize_map(Pick { wanted })?;
        Ok(Self { found })
    }

    /// Appends a field's text, or gives nothing where it is absent, null, or no scalar.
    fn get(&self, name: &str, out: &mut String) -> Option<()> {
        let (_, value) = self.found.iter().find(|(field, _)| *field == name)?;
        match value.get().as_bytes() {
            [b'"', ..] => out.push_str(&serde_json::from_str::<String>(value.get()).ok()?),
            [b'{' | b'[', ..] | b"null" => return None,
            _ => out.push_str(value.get()),
        }
        Some(())
    }
}

struct Pick<'w> {
    wanted: &'w [String],
}

impl<'a> Visitor<'a> for Pick<'a> {
    type Value = Vec<(&'a str, &'a RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = Vec::with_capacity(self.wanted.len());
        while let Some(field) = map.next_key_seed(Name { wanted: self.wanted })? {
            match field {
                Some(field) => found.push((field, map.next_value()?)),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

/// Tells which wanted field a key is, without keeping the key.
struct Name<'w> {
    wanted: &'w [String],
}

impl<'de, 'w> DeserializeSeed<'de> for Name<'w> {
    type Value = Option<&'w str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'w> Visitor<'_> for Name<'w> {
    type Value = Option<&'w str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.wanted.iter().find(|wanted| *wanted == name).map(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str, data: &str) -> Result<String, String> {
        let template = Template::parse(template).map_err(|error| error.to_string())?;
        let wanted: Vec<String> = template.fields().map(str::to_owned).collect();
        let data: &RawValue = serde_json::from_str(data).unwrap();
        let fields = Fields::pick(data, &wanted).unwrap();
        template.render(&fields).map_err(|field| format!("no {field}"))
    }

    #[test]
    fn a_name_is_made_of_text_and_fields() {
        let data =
            r#"{"attributes":{"part_id":7},"part_id":42,"sku":"a\"\u00e4\\","live":true,"none":null,"list":[1]}"#;
        assert_eq!(render("part:{part_id}:stock", data).as_deref(), Ok("part:42:stock"));
        assert_eq!(render("{sku}/{live}", data).as_deref(), Ok("a\"ä\\/true"));
        for absent in ["none", "list", "attributes", "other"] {
            assert_eq!(render(&format!("x:{{{absent}}}"), data), Err(format!("no {absent}")));
        }
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for text in ["part:{part_id", "part:}", "part:{}", "part:{a{b}", "}{"] {
            assert_eq!(Template::parse(text), Err(BadTemplate::Braces), "{text}");
        }
        for text in ["", "parts:list"] {
            assert_eq!(Template::parse(text), Err(BadTemplate::NoField), "{text}");
        }
    }
}
