// Package nested holds the tests that run on the host of real guests, whose
// only process besides what the tests start is our agent, as init. Package
// vmtest runs them; see docs/lab.md.
//
// In an emulated host time is virtual: it goes by with the instructions that
// are executed, and skips what nobody executes any in. So the time limits here
// mean the same on a busy computer.
package nested
