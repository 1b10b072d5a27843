// Command mutate changes one line of a package at a time and runs its tests: a
// change that no test notices is a mutant that survives, and shows a test that is
// missing.
//
//	go -C internal/mutate run . -n 40 ./rpc
//
// The mutants are a sample, drawn by -seed from all that the package has; nothing
// of the tree is written to, since the go command gets the changed file by its
// -overlay. A mutant that does not compile, or changes only what a log line says,
// does not count. Some mutants change nothing that can be observed: those are to be
// judged by a person, and listed with -equivalent.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	var o options
	flag.StringVar(&o.root, "C", "../..", "the directory of the module")
	flag.IntVar(&o.n, "n", 40, "mutants to try; 0: all")
	flag.Uint64Var(&o.seed, "seed", 1, "which mutants are drawn")
	flag.DurationVar(&o.timeout, "timeout", 3*time.Minute, "time for the tests of one mutant; one that takes longer is noticed")
	flag.StringVar(&o.tests, "tests", "", "packages whose tests run, separated by commas (default the package's own)")
	flag.StringVar(&o.match, "run", "", "only the tests that match this, as for go test; for packages whose tests of other things are slow")
	flag.StringVar(&o.equivalent, "equivalent", "equivalent.txt", "file of mutants that change nothing, one a line as they are printed")
	flag.BoolVar(&o.list, "list", false, "list the mutants and run nothing")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "mutate [flags] PACKAGE...   such as ./rpc")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	for _, pkg := range flag.Args() {
		if err := o.mutate(ctx, pkg); err != nil {
			fmt.Fprintf(os.Stderr, "mutate %s: %v\n", pkg, err)
			os.Exit(1)
		}
	}
}

// options are the flags.
type options struct {
	root, tests, match, equivalent string
	n                              int
	seed                           uint64
	timeout                        time.Duration
	list                           bool
}

// mutate tries a sample of a package's mutants and prints those that survive, and
// the score.
func (o *options) mutate(ctx context.Context, pkg string) error {
	dir := filepath.Join(o.root, filepath.FromSlash(strings.TrimPrefix(pkg, "./")))
	mutants, err := findMutants(dir)
	if err != nil {
		return err
	}
	total := len(mutants)
	equivalent, err := readLines(o.equivalent)
	if err != nil {
		return err
	}
	mutants = sample(mutants, o.n, o.seed)
	tests := []string{pkg}
	if o.tests != "" {
		tests = strings.Split(o.tests, ",")
	}
	if o.list {
		for _, m := range mutants {
			fmt.Println(m.name(o.root))
		}
		return nil
	}
	r := runner{root: o.root, tests: tests, match: o.match, timeout: o.timeout}
	if out, err := r.baseline(ctx); err != nil {
		return fmt.Errorf("the tests fail without a change: %w\n%s", err, out)
	}
	counts := make(map[verdict]int)
	for i, m := range mutants {
		name := m.name(o.root)
		v := same
		if !equivalent[name] {
			if v, err = r.run(ctx, m); err != nil {
				return err
			}
		}
		counts[v]++
		fmt.Printf("%3d/%d %-8s %s\n", i+1, len(mutants), v, name)
	}
	tried := counts[noticed] + counts[survived]
	fmt.Printf("%s: %d of %d noticed (%d %%); %d more did not compile, %d change nothing; a sample of %d, seed %d\n",
		pkg, counts[noticed], tried, 100*counts[noticed]/max(tried, 1), counts[invalid], counts[same], total, o.seed)
	return nil
}

// sample draws n mutants, in the order of the source.
func sample(mutants []mutant, n int, seed uint64) []mutant {
	if n <= 0 || n >= len(mutants) {
		return mutants
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	chosen := make(map[int]bool, n)
	for _, i := range rng.Perm(len(mutants))[:n] {
		chosen[i] = true
	}
	var out []mutant
	for i, m := range mutants {
		if chosen[i] {
			out = append(out, m)
		}
	}
	return out
}

// readLines returns the lines of a file, which need not be there, without blank
// ones and comments.
func readLines(path string) (map[string]bool, error) {
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := make(map[string]bool)
	for s := bufio.NewScanner(f); s.Scan(); {
		if line := strings.TrimSpace(s.Text()); line != "" && !strings.HasPrefix(line, "#") {
			lines[line] = true
		}
	}
	return lines, nil
}
