// A driver without GPUs for the tests of what is said about drivers and GPUs: it answers what DRIVER_* in the environment say, and
// does nothing else.
#include <stdlib.h>
#include <string.h>

static int number(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text ? atoi(text) : otherwise;
}

int cuDriverGetVersion(int *version) {
  *version = number("DRIVER_VERSION", 13000);
  return 0;
}
int cuInit(unsigned flags) { return flags ? 1 : number("DRIVER_INIT", 0); }
int cuDeviceGetCount(int *count) {
  *count = number("DRIVER_GPUS", 1);
  return 0;
}
int cuDeviceGet(int *device, int ordinal) {
  *device = ordinal;
  return 0;
}
int cuDeviceGetName(char *name, int length, int device) {
  strncpy(name, "A GPU", length);
  return device < 0;
}
int cuDeviceGetUuid_v2(char *uuid, int device) {
  memset(uuid, number("DRIVER_SAME", 0) ? 1 : device + 1, 16);
  return 0;
}
// Attributes 75 and 76 are the compute capability.
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 75 ? number("DRIVER_CAPABILITY", 90) / 10 : attribute == 76 ? number("DRIVER_CAPABILITY", 90) % 10 : 1;
  return device < 0;
}
int cuGetErrorString(int error, const char **text) {
  *text = error == 100 ? "no device" : "system not ready";
  return 0;
}
// NCCL's part.
int ncclGetVersion(int *version) {
  *version = number("NCCL_VERSION_FOUND", 23203);
  return 0;
}
