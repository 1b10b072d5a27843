// Package nested holds the tests that run on the host of real guests, whose
// only process besides what the tests start is our agent, as init. Package
// vmtest runs them; see docs/lab.md.
package nested
