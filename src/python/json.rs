//! Python objects -> JSON text, the same value as `json.dumps` gives, straight into the reply's buffer.
//!
//! It differs from `json.dumps` where the contract says so: NaN and infinities become `null`, enums go by value,
//! text is UTF-8 and only lone surrogates are escaped.

use std::fmt::Write as _;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use pyo3::{PyTypeInfo, intern};

/// Containers inside containers. Python's own encoder gives up at its recursion limit, about as deep.
const MAX_DEPTH: usize = 1000;

/// Serialises a value. Errs with TypeError or ValueError naming the type that cannot be JSON.
pub(super) fn to_json(value: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let mut writer = Writer { out: Vec::with_capacity(256), open: Vec::new() };
    writer.value(value)?;
    Ok(writer.out)
}

struct Writer {
    out: Vec<u8>,
    /// The containers around the current value, by address: one that contains itself is found at once.
    open: Vec<usize>,
}

impl Writer {
    fn value(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = value.py();
        if let Ok(text) = value.cast_exact::<PyString>() {
            return self.string(text);
        }
        if let Ok(dict) = value.cast_exact::<PyDict>() {
            return self.nested(value, |writer| writer.dict(dict));
        }
        if let Ok(list) = value.cast_exact::<PyList>() {
            return self.nested(value, |writer| writer.array(list.iter()));
        }
        if value.is_none() {
            self.out.extend_from_slice(b"null");
            return Ok(());
        }
        if let Ok(truth) = value.cast_exact::<PyBool>() {
            self.out.extend_from_slice(if truth.is_true() { b"true" } else { b"false" });
            return Ok(());
        }
        if let Ok(number) = value.cast_exact::<PyInt>() {
            return self.int(number);
        }
        if let Ok(number) = value.cast_exact::<PyFloat>() {
            self.float(number.value());
            return Ok(());
        }
        if let Ok(tuple) = value.cast::<PyTuple>() {
            return self.nested(value, |writer| writer.array(tuple.iter()));
        }
        self.subclass(py, value)
    }

    /// Subclasses of the basic types, by value; then enums.
    fn subclass(&mut self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Ok(text) = value.cast::<PyString>() {
            return self.string(text);
        }
        if let Ok(number) = value.cast::<PyInt>() {
            return self.int(number);
        }
        if let Ok(number) = value.cast::<PyFloat>() {
            self.float(number.value());
            return Ok(());
        }
        if let Ok(list) = value.cast::<PyList>() {
            return self.nested(value, |writer| writer.array(list.iter()));
        }
        if value.cast::<PyDict>().is_ok() {
            // A subclass may keep its own order or its own items: it is asked, as `json.dumps` does.
            let items = value.call_method0(intern!(py, "items"))?;
            return self.nested(value, |writer| writer.pairs(&items));
        }
        if is_enum(py, value)? {
            return self.nested(value, |writer| writer.value(&value.getattr(intern!(py, "value"))?));
        }
        Err(PyTypeError::new_err(format!("object of type {} is not JSON serializable", type_name(value))))
    }

    fn nested(&mut self, value: &Bound<'_, PyAny>, write: impl FnOnce(&mut Self) -> PyResult<()>) -> PyResult<()> {
        let address = value.as_ptr() as usize;
        if self.open.contains(&address) {
            return Err(PyValueError::new_err(format!("circular reference: a {} contains itself", type_name(value))));
        }
        if self.open.len() == MAX_DEPTH {
            let name = type_name(value);
            return Err(PyValueError::new_err(format!("{name} lies more than {MAX_DEPTH} levels deep")));
        }
        self.open.push(address);
        let result = write(self);
        self.open.pop();
        result
    }

    fn array<'py>(&mut self, items: impl Iterator<Item = Bound<'py, PyAny>>) -> PyResult<()> {
        self.out.push(b'[');
        for (index, item) in items.enumerate() {
            self.comma(index);
            self.value(&item)?;
        }
        self.out.push(b']');
        Ok(())
    }

    fn dict(&mut self, dict: &Bound<'_, PyDict>) -> PyResult<()> {
        self.out.push(b'{');
        for (index, (key, value)) in dict.iter().enumerate() {
            self.member(index, &key, &value)?;
        }
        self.out.push(b'}');
        Ok(())
    }

    fn pairs(&mut self, items: &Bound<'_, PyAny>) -> PyResult<()> {
        self.out.push(b'{');
        for (index, pair) in items.try_iter()?.enumerate() {
            let (key, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = pair?.extract()?;
            self.member(index, &key, &value)?;
        }
        self.out.push(b'}');
        Ok(())
    }

    fn member(&mut self, index: usize, key: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.comma(index);
        self.key(key)?;
        self.out.push(b':');
        self.value(value)
    }

    fn comma(&mut self, index: usize) {
        if index > 0 {
            self.out.push(b',');
        }
    }

    fn key(&mut self, key: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Ok(text) = key.cast::<PyString>() {
            return self.string(text);
        }
        let is_plain = key.is_none() || key.is_instance_of::<PyInt>() || key.is_instance_of::<PyFloat>();
        if !is_plain {
            let name = type_name(key);
            return Err(PyTypeError::new_err(format!("a key of type {name} is not JSON serializable")));
        }
        self.out.push(b'"');
        match key.cast::<PyFloat>() {
            // As a key even NaN is a name.
            Ok(number) if !number.value().is_finite() => {
                let number = number.value();
                let name = if number.is_nan() {
                    "NaN"
                } else if number > 0.0 {
                    "Infinity"
                } else {
                    "-Infinity"
                };
                self.out.extend_from_slice(name.as_bytes());
            }
            Ok(_) => {
                let text = PyFloat::type_object(key.py()).call_method1(intern!(key.py(), "__repr__"), (key,))?;
                self.out.extend_from_slice(text.cast::<PyString>()?.to_str()?.as_bytes());
            }
            Err(_) => self.value(key)?,
        }
        self.out.push(b'"');
        Ok(())
    }

    fn int(&mut self, number: &Bound<'_, PyInt>) -> PyResult<()> {
        if let Ok(small) = number.extract::<i64>() {
            self.out.extend_from_slice(itoa::Buffer::new().format(small).as_bytes());
            return Ok(());
        }
        // `int.__repr__` and not `str()`: an enum prints its name.
        let text = PyInt::type_object(number.py()).call_method1(intern!(number.py(), "__repr__"), (number,))?;
        self.out.extend_from_slice(text.cast::<PyString>()?.to_str()?.as_bytes());
        Ok(())
    }

    fn float(&mut self, number: f64) {
        // serde_json writes the shortest text that reads back as the same number, and `null` for NaN and infinities.
        serde_json::to_writer(&mut self.out, &number).expect("a number can be written to memory");
    }

    fn string(&mut self, text: &Bound<'_, PyString>) -> PyResult<()> {
        match text.to_str() {
            Ok(text) => {
                serde_json::to_writer(&mut self.out, text).expect("a string can be written to memory");
                Ok(())
            }
            Err(_) => self.string_with_surrogates(text),
        }
    }

    /// A string that is not valid Unicode: its lone surrogates are escaped, the rest is written as it is.
    fn string_with_surrogates(&mut self, text: &Bound<'_, PyString>) -> PyResult<()> {
        let encoded = text.call_method1(intern!(text.py(), "encode"), ("utf-16-le", "surrogatepass"))?;
        let bytes: Vec<u8> = encoded.extract()?;
        let units = bytes.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit));
        self.out.push(b'"');
        for decoded in char::decode_utf16(units) {
            match decoded {
                Ok(c) => {
                    let quoted = serde_json::to_string(c.encode_utf8(&mut [0; 4])).expect("a character is a string");
                    self.out.extend_from_slice(&quoted.as_bytes()[1..quoted.len() - 1]);
                }
                Err(lone) => {
                    let mut escape = String::new();
                    let _ = write!(escape, "\\u{:04x}", lone.unpaired_surrogate());
                    self.out.extend_from_slice(escape.as_bytes());
                }
            }
        }
        self.out.push(b'"');
        Ok(())
    }
}

fn is_enum(py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<bool> {
    // A member of an enum exists only once `enum` has been imported.
    let modules = py.import(intern!(py, "sys"))?.getattr(intern!(py, "modules"))?;
    match modules.cast::<PyDict>()?.get_item(intern!(py, "enum"))? {
        Some(module) => value.is_instance(&module.getattr(intern!(py, "Enum"))?),
        None => Ok(false),
    }
}

pub(super) fn type_name(value: &Bound<'_, PyAny>) -> String {
    value.get_type().name().map_or_else(|_| "object".to_owned(), |name| name.to_string())
}
