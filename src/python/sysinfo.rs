//! This machine's data for `plugincore.sysinfo`, from the sysinfo crate. Sizes are bytes, times seconds.

use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use sysinfo::{CpuRefreshKind, Disks, MemoryRefreshKind, Networks, System};

/// Kept between calls: the use of a processor is what happened since the last look.
static SYSTEM: Mutex<Option<System>> = Mutex::new(None);

/// Adds the functions to the module `_pserve`.
pub(super) fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(sysinfo_cpu, module)?)?;
    module.add_function(wrap_pyfunction!(sysinfo_memory, module)?)?;
    module.add_function(wrap_pyfunction!(sysinfo_disks, module)?)?;
    module.add_function(wrap_pyfunction!(sysinfo_networks, module)?)?;
    module.add_function(wrap_pyfunction!(sysinfo_host, module)?)?;
    Ok(())
}

fn with_system<T>(look: impl FnOnce(&mut System) -> T) -> Result<T, sysinfo::Error> {
    let mut kept = SYSTEM.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.is_none() {
        *kept = Some(System::new()?);
    }
    Ok(look(kept.as_mut().expect("made just above")))
}

fn os_error(problem: sysinfo::Error) -> PyErr {
    PyOSError::new_err(format!("this machine's data cannot be read: {problem}"))
}

struct Cpu {
    brand: String,
    frequency: u64,
    usage: f32,
    per_core: Vec<f32>,
}

#[pyfunction]
fn sysinfo_cpu(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let cpu = py.detach(|| {
        with_system(|system| {
            system.refresh_cpu_specifics(CpuRefreshKind::everything());
            let first = system.cpus().first();
            Cpu {
                brand: first.map(|cpu| cpu.brand().trim().to_owned()).unwrap_or_default(),
                frequency: first.map_or(0, sysinfo::Cpu::frequency),
                usage: system.global_cpu_usage(),
                per_core: system.cpus().iter().map(sysinfo::Cpu::usage).collect(),
            }
        })
    });
    let cpu = cpu.map_err(os_error)?;
    let load = System::load_average().ok().map(|load| [load.one, load.five, load.fifteen]);
    let result = PyDict::new(py);
    result.set_item("brand", cpu.brand)?;
    result.set_item("physical_cores", System::physical_core_count().ok())?;
    result.set_item("logical_cores", cpu.per_core.len())?;
    result.set_item("frequency_mhz", cpu.frequency)?;
    result.set_item("usage_percent", rounded(cpu.usage))?;
    result.set_item("per_core_percent", cpu.per_core.into_iter().map(rounded).collect::<Vec<_>>())?;
    result.set_item("load_average", load)?;
    Ok(result)
}

fn rounded(percent: f32) -> f64 {
    (f64::from(percent) * 10.0).round() / 10.0
}

#[pyfunction]
fn sysinfo_memory(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let sizes = py.detach(|| {
        with_system(|system| {
            system.refresh_memory_specifics(MemoryRefreshKind::everything());
            [
                system.total_memory(),
                system.used_memory(),
                system.free_memory(),
                system.available_memory(),
                system.total_swap(),
                system.used_swap(),
                system.free_swap(),
            ]
        })
    });
    let [total, used, free, available, swap_total, swap_used, swap_free] = sizes.map_err(os_error)?;
    let result = PyDict::new(py);
    result.set_item("total", total)?;
    result.set_item("used", used)?;
    result.set_item("free", free)?;
    result.set_item("available", available)?;
    result.set_item("swap_total", swap_total)?;
    result.set_item("swap_used", swap_used)?;
    result.set_item("swap_free", swap_free)?;
    Ok(result)
}

#[pyfunction]
fn sysinfo_disks(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let disks = py.detach(Disks::new_with_refreshed_list).map_err(os_error)?;
    let list = PyList::empty(py);
    for disk in disks.iter() {
        let entry = PyDict::new(py);
        entry.set_item("device", disk.name().to_string_lossy())?;
        entry.set_item("mount_point", disk.mount_point().to_string_lossy())?;
        entry.set_item("file_system", disk.file_system().to_string_lossy())?;
        entry.set_item("total", disk.total_space())?;
        entry.set_item("available", disk.available_space())?;
        entry.set_item("used", disk.total_space().saturating_sub(disk.available_space()))?;
        entry.set_item("removable", disk.is_removable())?;
        list.append(entry)?;
    }
    Ok(list)
}

#[pyfunction]
fn sysinfo_networks(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let networks = py.detach(Networks::new_with_refreshed_list).map_err(os_error)?;
    let result = PyDict::new(py);
    for (name, data) in networks.iter() {
        let entry = PyDict::new(py);
        entry.set_item("mac", data.mac_address().to_string())?;
        let addresses: Vec<String> = data.ip_networks().iter().map(ToString::to_string).collect();
        entry.set_item("addresses", addresses)?;
        entry.set_item("bytes_received", data.total_received())?;
        entry.set_item("bytes_sent", data.total_transmitted())?;
        entry.set_item("packets_received", data.total_packets_received())?;
        entry.set_item("packets_sent", data.total_packets_transmitted())?;
        entry.set_item("errors_received", data.total_errors_on_received())?;
        entry.set_item("errors_sent", data.total_errors_on_transmitted())?;
        result.set_item(name, entry)?;
    }
    Ok(result)
}

#[pyfunction]
fn sysinfo_host(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let result = PyDict::new(py);
    result.set_item("hostname", System::host_name().ok())?;
    result.set_item("os", System::long_os_version().ok())?;
    result.set_item("distribution", System::distribution_id())?;
    result.set_item("kernel", System::kernel_version().ok())?;
    result.set_item("architecture", System::cpu_arch())?;
    result.set_item("boot_time", System::boot_time().ok())?;
    result.set_item("uptime_seconds", System::uptime().ok())?;
    Ok(result)
}
