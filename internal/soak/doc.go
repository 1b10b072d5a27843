// Command soak drives clients with mixed work against guest-agent processes
// behind simulated VMMs, and injects faults meanwhile. At the end it checks that
// nothing was lost, nothing ran twice and nothing is left behind.
//
//	go run ./internal/soak -time 5m -clients 64 -seed 1
//
// The work of each client and the faults of each machine follow from the seed
// alone; how far the clients get with it is up to the computer. The exit code is
// 1 if a promise was broken, and then the output has what happened, with the
// command that runs the same again. docs/reliability.md says what is promised
// and what was found.
package main
