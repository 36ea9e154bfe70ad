//! Python objects -> JSON text, the same value as `json.dumps` gives, straight into the reply's buffer.
//!
//! It differs from `json.dumps` where the contract says so: NaN and infinities become `null`, enums go by value,
//! text is UTF-8 and only lone surrogates are escaped.
//!
//! The usual types are read without a reference of our own to each object: that is what makes large answers fast. The
//! rules that keep it sound: a container is held for as long as it is read; what it contains is only touched between two
//! looks into it, before any Python code can run; Python code runs for unusual types only, and what it may have changed is
//! looked at afresh afterwards. The first look for a name may let another thread run, an exception Python's collector:
//! both count as Python code. `pytests/test_json.py` compares with `json.dumps`, `test_json_changes.py` changes what is
//! being read, both under Python's debug allocators and under AddressSanitizer too (`make asan`).
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::fmt::Write as _;
use std::os::raw::c_int;

use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use pyo3::{PyTypeInfo, ffi, intern};

use super::native::loaded_module;

/// Containers inside containers. Python's own encoder gives up at its recursion limit, about as deep.
const MAX_DEPTH: usize = 1000;

/// What a thread keeps to write the next answer into: memory that is fresh from the system for each large answer costs
/// as much as a fifth of the work.
const KEPT_BYTES: usize = 1 << 20;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Serialises a value. Errs with TypeError or ValueError naming the type that cannot be JSON.
pub(super) fn to_json(value: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    // Taken, not borrowed: the `items()` of an unusual dict may come back here.
    let mut out = SCRATCH.take();
    out.clear();
    let mut writer = Writer { out, open: Vec::new(), has_run_python: false };
    let written = writer.value(value);
    let json = written.map(|()| writer.out.as_slice().to_vec());
    if writer.out.capacity() <= KEPT_BYTES {
        SCRATCH.set(writer.out);
    }
    json
}

struct Writer {
    out: Vec<u8>,
    /// The containers around the current value, by address: one that contains itself is found at once.
    open: Vec<usize>,
    /// Whether code of a plugin's may have run since somebody last asked.
    has_run_python: bool,
}

impl Writer {
    fn value(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        // SAFETY: the reference keeps the object alive.
        unsafe { self.object(value.py(), value.as_ptr()) }
    }

    /// Writes an object of any type.
    ///
    /// # Safety
    ///
    /// The object must be alive, and stay so until Python code runs.
    unsafe fn object(&mut self, py: Python<'_>, object: *mut ffi::PyObject) -> PyResult<()> {
        // SAFETY: as for this function. Each branch is for exactly the type that its functions ask for; none of them runs
        // Python code before it has a reference of its own.
        unsafe {
            let kind = ffi::Py_TYPE(object);
            if kind == &raw mut ffi::PyUnicode_Type {
                return self.text(py, object);
            }
            if kind == &raw mut ffi::PyLong_Type {
                let mut overflow: c_int = 0;
                let number = ffi::PyLong_AsLongLongAndOverflow(object, &raw mut overflow);
                if overflow == 0 {
                    self.out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
                    return Ok(());
                }
            } else if kind == &raw mut ffi::PyFloat_Type {
                self.float(ffi::PyFloat_AS_DOUBLE(object));
                return Ok(());
            } else if object == ffi::Py_True() || object == ffi::Py_False() {
                self.out.extend_from_slice(if object == ffi::Py_True() { b"true" } else { b"false" });
                return Ok(());
            } else if object == ffi::Py_None() {
                self.out.extend_from_slice(b"null");
                return Ok(());
            }
            let value = Bound::from_borrowed_ptr(py, object);
            if kind == &raw mut ffi::PyDict_Type {
                return self.nested(&value, |writer| writer.dict(&value));
            }
            if kind == &raw mut ffi::PyList_Type {
                return self.nested(&value, |writer| writer.list(&value));
            }
            self.unusual(py, &value)
        }
    }

    /// Large integers, tuples, subclasses of the basic types by value; then enums.
    fn unusual(&mut self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.has_run_python = true;
        if let Ok(tuple) = value.cast_exact::<PyTuple>() {
            return self.nested(value, |writer| writer.array(tuple.iter().map(Ok)));
        }
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
        if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
            // A subclass may have its own way to give its items: it is asked, as `json.dumps` does.
            let items = value.try_iter()?;
            return self.nested(value, |writer| writer.array(items));
        }
        if value.cast::<PyDict>().is_ok() {
            // And here for its members.
            let items = value.call_method0(intern!(py, "items"))?;
            return self.nested(value, |writer| writer.pairs(&items));
        }
        if is_enum(py, value)? {
            return self.nested(value, |writer| writer.value(&value.getattr(intern!(py, "value"))?));
        }
        Err(PyTypeError::new_err(format!("object of type {} is not JSON serializable", type_name(value))))
    }

    /// Text of any kind. What is not plain is held, since more than reading happens to it.
    ///
    /// # Safety
    ///
    /// The object must be a live `str`.
    unsafe fn text(&mut self, py: Python<'_>, object: *mut ffi::PyObject) -> PyResult<()> {
        // SAFETY: as for this function.
        unsafe {
            if self.plain_str(object) {
                return Ok(());
            }
            self.string(Bound::from_borrowed_ptr(py, object).cast::<PyString>()?)
        }
    }

    /// Writes text that is compact ASCII and has nothing to escape, from where it lies; false, and nothing written, for any
    /// other. Never runs Python code.
    ///
    /// # Safety
    ///
    /// The object must be a live `str`.
    #[inline(always)]
    unsafe fn plain_str(&mut self, object: *mut ffi::PyObject) -> bool {
        #[cfg(not(Py_3_14))]
        // SAFETY: the characters of a compact ASCII string lie behind its head, one byte each, and do not change.
        unsafe {
            if ffi::PyUnicode_IS_COMPACT_ASCII(object) != 0 {
                let length = usize::try_from(ffi::PyUnicode_GET_LENGTH(object)).unwrap_or_default();
                return self.plain_text(std::slice::from_raw_parts(ffi::PyUnicode_DATA(object).cast::<u8>(), length));
            }
        }
        #[cfg(Py_3_14)]
        let _ = object;
        false
    }

    /// Writes ASCII text that has nothing to escape; false, and nothing written, when it has. Eight bytes at a time, the
    /// last ones once more where they are fewer.
    fn plain_text(&mut self, bytes: &[u8]) -> bool {
        self.out.reserve(bytes.len() + 2);
        let start = self.out.len();
        let mut needed = 0;
        // SAFETY: there is room for the text and two quotes; each write lies within it, at the place in the text where its
        // bytes were read. The length counts them only when all have been written.
        unsafe {
            let quote = self.out.as_mut_ptr().add(start);
            let to = quote.add(1);
            if let (Some(first), Some(last)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
                let mut put = |at: usize, word: &[u8; 8]| {
                    needed |= escapes_in(u64::from_ne_bytes(*word));
                    to.add(at).cast::<[u8; 8]>().write_unaligned(*word);
                };
                put(0, first);
                for (index, word) in bytes.as_chunks::<8>().0.iter().enumerate().skip(1) {
                    put(index * 8, word);
                }
                put(bytes.len() - 8, last);
            } else if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
                let both = u64::from(u32::from_ne_bytes(*first)) | u64::from(u32::from_ne_bytes(*last)) << 32;
                needed = escapes_in(both);
                to.cast::<[u8; 4]>().write_unaligned(*first);
                to.add(bytes.len() - 4).cast::<[u8; 4]>().write_unaligned(*last);
            } else {
                for (at, byte) in bytes.iter().enumerate() {
                    needed |= u64::from(*byte < 0x20 || matches!(*byte, b'"' | b'\\'));
                    to.add(at).write(*byte);
                }
            }
            if needed == 0 {
                quote.write(b'"');
                to.add(bytes.len()).write(b'"');
                self.out.set_len(start + bytes.len() + 2);
            }
        }
        needed == 0
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

    /// The items of a list of exactly that type, which is held by `list`.
    fn list(&mut self, list: &Bound<'_, PyAny>) -> PyResult<()> {
        self.out.push(b'[');
        let mut index = 0;
        // SAFETY: the length is asked again before each item, since Python code may have run in between; the item is alive
        // as long as it is in the list, which nobody changes before `object` has a reference of its own.
        while index < unsafe { ffi::PyList_GET_SIZE(list.as_ptr()) } {
            if index > 0 {
                self.out.push(b',');
            }
            // SAFETY: as above.
            unsafe { self.object(list.py(), ffi::PyList_GET_ITEM(list.as_ptr(), index)) }?;
            index += 1;
        }
        self.out.push(b']');
        Ok(())
    }

    /// The members of a dict of exactly that type, which is held by `dict`.
    fn dict(&mut self, dict: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = dict.py();
        self.out.push(b'{');
        let (mut position, mut key, mut value) = (0, std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: `dict` is a dict.
        let length = unsafe { ffi::PyDict_Size(dict.as_ptr()) };
        let mut seen = 0;
        // SAFETY: the function gives references that the dict holds, and finds its place even in one that has changed.
        while unsafe { ffi::PyDict_Next(dict.as_ptr(), &raw mut position, &raw mut key, &raw mut value) } != 0 {
            if seen > 0 {
                self.out.push(b',');
            }
            seen += 1;
            // SAFETY: the dict holds both, and nobody changes it as long as no Python code runs. That may happen for keys
            // that are no plain text (an exception for a lone surrogate is enough to start Python's collector of cycles):
            // references of our own keep both until then.
            unsafe {
                if ffi::Py_TYPE(key) == &raw mut ffi::PyUnicode_Type && self.plain_str(key) {
                    self.out.push(b':');
                    self.object(py, value)?;
                } else {
                    let (key, value) = (Bound::from_borrowed_ptr(py, key), Bound::from_borrowed_ptr(py, value));
                    self.has_run_python = true;
                    self.key(&key)?;
                    self.out.push(b':');
                    self.value(&value)?;
                }
                // One that replaces its members as fast as they are read would have no end.
                if self.has_run_python && (ffi::PyDict_Size(dict.as_ptr()) != length || seen > length) {
                    return Err(PyRuntimeError::new_err("dictionary changed size during iteration"));
                }
            }
        }
        self.out.push(b'}');
        Ok(())
    }

    fn array<'py>(&mut self, items: impl Iterator<Item = PyResult<Bound<'py, PyAny>>>) -> PyResult<()> {
        self.out.push(b'[');
        for (index, item) in items.enumerate() {
            self.comma(index);
            self.value(&item?)?;
        }
        self.out.push(b']');
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
        if number.fract() == 0.0 && number.abs() < LARGEST_PLAIN && (number != 0.0 || number.is_sign_positive()) {
            #[expect(clippy::cast_possible_truncation, reason = "it is whole and small")]
            let whole = number as i64;
            self.out.extend_from_slice(itoa::Buffer::new().format(whole).as_bytes());
            self.out.extend_from_slice(b".0");
            return;
        }
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

/// Below this every whole number is written without an exponent.
const LARGEST_PLAIN: f64 = 1e15;

/// Not zero when one of eight bytes is a character that JSON wants escaped (RFC 8259, 7).
fn escapes_in(word: u64) -> u64 {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let zeros_in = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    let controls = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
    controls | zeros_in(word ^ (ONES * u64::from(b'"'))) | zeros_in(word ^ (ONES * u64::from(b'\\')))
}

fn is_enum(py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<bool> {
    // A member of an enum exists only once `enum` has been imported.
    match loaded_module(intern!(py, "enum"))? {
        Some(module) => value.is_instance(&module.getattr(intern!(py, "Enum"))?),
        None => Ok(false),
    }
}

pub(super) fn type_name(value: &Bound<'_, PyAny>) -> String {
    value.get_type().name().map_or_else(|_| "object".to_owned(), |name| name.to_string())
}
