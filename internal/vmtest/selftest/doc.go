// Package selftest holds the lab's test of itself: that the kernels it boots
// have a working AF_VSOCK and what the other tests rely on.
package selftest
