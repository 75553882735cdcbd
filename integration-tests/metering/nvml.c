// A driver's library for machines without a GPU: one card of 1000 MiB whose numbers move with every look at it. Between two
// looks it takes another MiB and 7 J; it works 40 % of the time.
#include <string.h>

typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory;
typedef struct { unsigned gpu, memory; } Load;

static const unsigned long long MIB = 1 << 20;
static unsigned long long looks;

int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  *device = &looks;
  looks++;
  return index == 0 ? 0 : 2;
}

int nvmlDeviceGetMemoryInfo_v2(void *device, Memory *memory) {
  memory->total = 1000 * MIB;
  memory->used = (100 + looks) * MIB;
  memory->free = memory->total - memory->used;
  return 0;
}

int nvmlDeviceGetUUID(void *device, char *text, unsigned length) { strncpy(text, "GPU-stand-in", length); return 0; }
int nvmlDeviceGetName(void *device, char *text, unsigned length) { strncpy(text, "Stand-in", length); return 0; }
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) { *major = 8; *minor = 9; return 0; }
int nvmlDeviceGetUtilizationRates(void *device, Load *load) { load->gpu = 40; load->memory = 15; return 0; }
int nvmlDeviceGetEncoderUtilization(void *device, unsigned *use, unsigned *us) { *use = 21; *us = 1000; return 0; }
int nvmlDeviceGetDecoderUtilization(void *device, unsigned *use, unsigned *us) { *use = 32; *us = 1000; return 0; }
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *degrees) { *degrees = 61; return sensor; }
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) { *milliwatts = 72500; return 0; }

int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) {
  *millijoules = looks * 7000;
  return 0;
}
