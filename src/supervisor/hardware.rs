//! What NVML tells of the GPUs. The library is loaded at the first question, on a thread that may block.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;
use serde::Serialize;
use tokio::sync::Semaphore;
use tracing::info;
use utoipa::ToSchema;

/// Answers younger than this are given again.
const FRESH: Duration = Duration::from_millis(500);
/// Longest wait for the driver; after it the last known answer is given.
const WAIT: Duration = Duration::from_secs(2);

/// One GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gpu {
    /// `GPU-` and its UUID.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Bytes.
    pub memory_total: u64,
    /// Bytes.
    pub memory_free: u64,
    /// Compute capability before the point.
    pub major: u32,
    /// Compute capability behind the point.
    pub minor: u32,
    /// Per cent of the time with a kernel running, where the driver tells; it does not for partitions of a GPU.
    pub utilization_compute: Option<u32>,
    /// As `utilization_compute`, of the time with memory read or written.
    pub utilization_memory: Option<u32>,
    /// Per cent of the time that the encoder was in use, where the driver tells.
    pub encoder: Option<u32>,
    /// As `encoder`, of the decoder.
    pub decoder: Option<u32>,
    /// Degrees Celsius.
    pub temperature: Option<u32>,
    /// Milliwatts.
    pub power_mw: Option<u32>,
    /// Millijoules since the driver was loaded.
    pub energy_mj: Option<u64>,
}

/// A GPU in `GET /hardware/info`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct GPUComputeInfo {
    id: String,
    name: String,
    memory_total: u64,
    memory_free: u64,
    major: u32,
    minor: u32,
}

/// A GPU in `GET /hardware/stats`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct GPUUtilizationInfo {
    id: String,
    name: String,
    memory_total: u64,
    memory_free: u64,
    utilization_compute: u32,
    utilization_memory: u32,
}

impl From<Gpu> for GPUComputeInfo {
    fn from(gpu: Gpu) -> Self {
        let Gpu { id, name, memory_total, memory_free, major, minor, .. } = gpu;
        Self { id, name, memory_total, memory_free, major, minor }
    }
}

impl From<Gpu> for GPUUtilizationInfo {
    fn from(gpu: Gpu) -> Self {
        let Gpu { id, name, memory_total, memory_free, .. } = gpu;
        // The contract has no word for what is not known.
        let [utilization_compute, utilization_memory] =
            [gpu.utilization_compute, gpu.utilization_memory].map(Option::unwrap_or_default);
        Self { id, name, memory_total, memory_free, utilization_compute, utilization_memory }
    }
}

/// The GPUs by NVML index.
pub(super) type Gpus = BTreeMap<String, Gpu>;

/// The door to NVML: one question at a time, the last answer kept.
pub(super) struct Hardware {
    library: Arc<OnceLock<Option<Nvml>>>,
    last: Arc<Mutex<Option<(Instant, Gpus)>>>,
    turn: Arc<Semaphore>,
}

impl Default for Hardware {
    fn default() -> Self {
        Self { library: Default::default(), last: Default::default(), turn: Arc::new(Semaphore::new(1)) }
    }
}

impl Hardware {
    /// The GPUs; none without a driver. A driver that hangs costs two seconds and one thread.
    pub async fn gpus(&self) -> Gpus {
        if let Some(gpus) = self.last(Some(FRESH)) {
            return gpus;
        }
        let asked = tokio::time::timeout(WAIT, async {
            let turn = self.turn.clone().acquire_owned().await.ok()?;
            if let Some(gpus) = self.last(Some(FRESH)) {
                return Some(gpus);
            }
            let (library, last) = (self.library.clone(), self.last.clone());
            let ask = move || {
                let _turn = turn;
                let gpus = library.get_or_init(open).as_ref().map(read).unwrap_or_default();
                *last.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), gpus.clone()));
                gpus
            };
            tokio::task::spawn_blocking(ask).await.ok()
        });
        asked.await.ok().flatten().or_else(|| self.last(None)).unwrap_or_default()
    }

    fn last(&self, fresh: Option<Duration>) -> Option<Gpus> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, gpus) = last.as_ref()?;
        fresh.is_none_or(|fresh| at.elapsed() < fresh).then(|| gpus.clone())
    }
}

fn open() -> Option<Nvml> {
    // The name without a number belongs to development packages, which containers lack.
    let numbered = Nvml::builder().lib_path(OsStr::new("libnvidia-ml.so.1")).init();
    match numbered.or_else(|_| Nvml::init()) {
        Ok(nvml) => Some(nvml),
        Err(error) => {
            info!(%error, "NVML is not there; no GPU is reported.");
            None
        }
    }
}

fn read(nvml: &Nvml) -> Gpus {
    let count = nvml.device_count().unwrap_or(0);
    (0..count).filter_map(|index| gpu(nvml, index).ok().map(|gpu| (index.to_string(), gpu))).collect()
}

fn gpu(nvml: &Nvml, index: u32) -> Result<Gpu, NvmlError> {
    let device = nvml.device_by_index(index)?;
    let memory = device.memory_info()?;
    let capability = device.cuda_compute_capability()?;
    let load = device.utilization_rates().ok();
    Ok(Gpu {
        id: device.uuid()?,
        name: device.name()?,
        memory_total: memory.total,
        memory_free: memory.free,
        major: capability.major.max(0) as u32,
        minor: capability.minor.max(0) as u32,
        utilization_compute: load.as_ref().map(|load| load.gpu),
        utilization_memory: load.as_ref().map(|load| load.memory),
        encoder: device.encoder_utilization().ok().map(|use_of| use_of.utilization),
        decoder: device.decoder_utilization().ok().map(|use_of| use_of.utilization),
        temperature: device.temperature(TemperatureSensor::Gpu).ok(),
        power_mw: device.power_usage().ok(),
        energy_mj: device.total_energy_consumption().ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_machine_without_a_driver_answers_quickly() {
        let hardware = Hardware::default();
        let begin = Instant::now();
        let first = hardware.gpus().await;
        assert_eq!(hardware.gpus().await.len(), first.len());
        assert!(begin.elapsed() < WAIT);
    }
}
