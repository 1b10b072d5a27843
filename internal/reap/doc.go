// Package reap collects the orphans of a guest without taking the exit codes of
// processes that the agent started itself.
//
// A child subreaper, as PID 1, becomes the parent of every descendant whose own
// parent has gone, and must wait for it. Waiting for "any child" would take the
// status of a child that other code in the process waits for. So every start
// goes through [Child], which keeps a register of such children under a lock
// that the reaper takes too: what is a child and not in the register is an
// orphan.
//
// The register costs nothing where no reaper runs. An agent that is embedded
// in another program never calls [Start] and never reaps what is not its own.
package reap
