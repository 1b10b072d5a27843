//go:build linux

package process

import (
	"bytes"
	"os"
	"strconv"
	"sync"
)

// agentOOMScore is oom_score_adj of a protected agent: the kernel ends it after
// everything else, but can.
const agentOOMScore = -900

const oomScoreFile = "/proc/self/oom_score_adj"

// oomGuard keeps a negative oom_score_adj of the agent from its children.
// Nothing can set it between fork and exec, and set afterwards it would miss
// what the child has forked by then. So the agent's own is 0 for as long as
// any fork is under way. It must not be lowered again before that: the kernel
// writes it to every process that shares the memory, as a child does until its
// exec.
type oomGuard struct {
	score int // what to hold while nothing forks; not negative: nothing to do
	mu    sync.Mutex
	forks int
}

// newOOMGuard reads the agent's own score, after lowering it if protect is set.
// Where it may not be lowered it stays as it is.
func newOOMGuard(protect bool) *oomGuard {
	if protect {
		_ = writeOOMScore(agentOOMScore)
	}
	text, err := os.ReadFile(oomScoreFile)
	if err != nil {
		return &oomGuard{}
	}
	score, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil {
		return &oomGuard{}
	}
	return &oomGuard{score: score}
}

// enter is called before a fork, and what it returns after it.
func (g *oomGuard) enter() (leave func()) {
	if g.score >= 0 {
		return func() {}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.forks++; g.forks == 1 {
		_ = writeOOMScore(0)
	}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.forks--; g.forks == 0 {
			_ = writeOOMScore(g.score)
		}
	}
}

func writeOOMScore(score int) error {
	return os.WriteFile(oomScoreFile, []byte(strconv.Itoa(score)), 0)
}
