//! WebSocket framing (RFC 6455) for the stand-in of aiohttp's `WebSocketResponse`: bytes in, messages out, and back.
//!
//! tungstenite does the work, on memory instead of a socket. The real aiohttp brings its own framing.

use std::io::{self, Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BytesMut};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

/// What has come from the client and what shall go to it.
#[derive(Default)]
struct Memory {
    incoming: BytesMut,
    outgoing: Vec<u8>,
}

impl Read for Memory {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(self.incoming.len());
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.incoming.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The server's side of one WebSocket. A message is `(opcode, payload, close code)`; opcodes as in RFC 6455, 5.2.
#[pyclass(frozen)]
pub(super) struct WebSocketCodec(Mutex<WebSocket<Memory>>);

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

impl WebSocketCodec {
    fn lock(&self) -> MutexGuard<'_, WebSocket<Memory>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type PythonMessage<'py> = (u8, Bound<'py, PyBytes>, Option<u16>);

#[pymethods]
impl WebSocketCodec {
    /// `max_message_bytes` is 0 for no limit.
    #[new]
    fn new(max_message_bytes: usize) -> Self {
        let limit = (max_message_bytes > 0).then_some(max_message_bytes);
        let config = WebSocketConfig::default().max_message_size(limit).max_frame_size(limit);
        Self(Mutex::new(WebSocket::from_raw_socket(Memory::default(), Role::Server, Some(config))))
    }

    /// Takes bytes from the client.
    fn feed(&self, data: &[u8]) {
        self.lock().get_mut().incoming.extend_from_slice(data);
    }

    /// Bytes that wait to be read as messages.
    #[getter]
    fn waiting_bytes(&self) -> usize {
        self.lock().get_ref().incoming.len()
    }

    /// The next message, when it is complete. One at a time: after a close has been read nothing can be sent any more.
    /// ValueError says what is wrong with the bytes; its second argument is the close code to send.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Option<PythonMessage<'py>>> {
        let mut socket = self.lock();
        loop {
            match socket.read() {
                Ok(message) => {
                    if let Some(message) = to_python(py, message) {
                        return Ok(Some(message));
                    }
                }
                Err(Error::Io(problem)) if problem.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => return Ok(None),
                Err(error) => {
                    let code = match &error {
                        Error::Capacity(_) => CloseCode::Size,
                        Error::Utf8(_) => CloseCode::Invalid,
                        _ => CloseCode::Protocol,
                    };
                    return Err(PyValueError::new_err((error.to_string(), u16::from(code))));
                }
            }
        }
    }

    /// Frames one message for the client. What it gives goes out as it is.
    #[pyo3(signature = (opcode, payload, close_code=None))]
    fn send<'py>(
        &self,
        py: Python<'py>,
        opcode: u8,
        payload: &[u8],
        close_code: Option<u16>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let message = to_message(opcode, payload, close_code)?;
        let mut socket = self.lock();
        match socket.write(message).and_then(|()| socket.flush()) {
            Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => {}
            Err(error) => return Err(PyValueError::new_err(error.to_string())),
        }
        Ok(PyBytes::new(py, &std::mem::take(&mut socket.get_mut().outgoing)))
    }

    /// What must go out of itself: answers to pings, and to a close.
    fn pending<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let mut socket = self.lock();
        // The only errors of memory are those of an end that has come already.
        let _ = socket.flush();
        PyBytes::new(py, &std::mem::take(&mut socket.get_mut().outgoing))
    }
}

fn to_python(py: Python<'_>, message: Message) -> Option<PythonMessage<'_>> {
    Some(match message {
        Message::Text(text) => (TEXT, PyBytes::new(py, text.as_bytes()), None),
        Message::Binary(bytes) => (BINARY, PyBytes::new(py, &bytes), None),
        Message::Ping(bytes) => (PING, PyBytes::new(py, &bytes), None),
        Message::Pong(bytes) => (PONG, PyBytes::new(py, &bytes), None),
        Message::Close(frame) => {
            let (code, reason) =
                frame.map_or((0, String::new()), |frame| (frame.code.into(), frame.reason.to_string()));
            (CLOSE, PyBytes::new(py, reason.as_bytes()), Some(code))
        }
        Message::Frame(_) => return None,
    })
}

fn to_message(opcode: u8, payload: &[u8], close_code: Option<u16>) -> PyResult<Message> {
    let text = || std::str::from_utf8(payload).map_err(|_| PyValueError::new_err("a text message must be UTF-8"));
    Ok(match opcode {
        TEXT => Message::text(text()?),
        BINARY => Message::binary(payload.to_vec()),
        PING => Message::Ping(payload.to_vec().into()),
        PONG => Message::Pong(payload.to_vec().into()),
        CLOSE => {
            let code = close_code.map(CloseCode::from);
            Message::Close(match code {
                Some(code) => Some(CloseFrame { code, reason: text()?.into() }),
                None => None,
            })
        }
        _ => return Err(PyValueError::new_err(format!("{opcode} is no opcode of a message"))),
    })
}
