// Package pid1 is what a program has to do that is the first process of a
// guest: mount the kernel's file systems, load the modules that vsock needs,
// and in the end stop everything and power off.
//
// Each step does what is missing and leaves alone what is there, so that it
// does no harm in an image that has done a part of it. A step that fails is
// reported and the others go on: a guest without /dev/shm is better than none.
//
// Orphans are the business of package reap. Linux only.
package pid1
