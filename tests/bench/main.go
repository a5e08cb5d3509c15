// Bench measures what Postern adds, beside baselines that do the same outside
// work without it. All sides of a comparison run in one go, in turns, because
// these machines are noisy; medians are printed, the ratio or the difference is
// the figure, and beside it stand its target and whether it is met; one that isn't
// makes the exit code 1.
//
//	agents      requests a second of GET /agents, from wrk where it is installed,
//	            else from this program: `postern run` with the root token and with
//	            an issued key (limit, usage in the data folder and event line on),
//	            and the bare handler of tests/bench/bare
//	authorizer  a warm invocation of the compiled authorizer, with the root token
//	            and with an issued key, and of tests/bench/noop, under one Runtime
//	            API host
//	chat        POST /chat of the offline model with an issued key, and the bare
//	            handler that runs the same model
//	start       from exec to the first answer of /health; resident memory then
//	keys        verification with 10 and with 1,000,000 issued keys in the data
//	            folder; it takes a minute, and runs if -million or -only asks
//	streams     the first delta of a streamed POST /chat, and its first byte from the
//	            compiled function beside tests/bench/noopstream; memory and /health
//	            while 2,000 streams are open; it takes two minutes, and runs if -only
//	            asks
//
// Usage: make bench, or go run ./tests/bench [-only agents,chat] [-million] in
// the root of the repository.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// part is something to measure, in a folder for programs and data that is removed
// at the end.
type part struct {
	name    string
	measure func(v *verdicts, ctx context.Context, dir string) error
}

// verdicts are on the figures that have a target.
type verdicts struct{ missed []string }

var parts = []part{
	{"agents", (*verdicts).throughput},
	{"authorizer", (*verdicts).authorizer},
	{"chat", (*verdicts).chat},
	{"start", (*verdicts).start},
	{"keys", (*verdicts).million},
	{"streams", (*verdicts).streams},
}

func main() {
	only := flag.String("only", "agents,authorizer,chat,start", "the `parts` to measure, separated by commas")
	withMillion := flag.Bool("million", false, "measure keys too")
	flag.Parse()
	wanted := strings.Split(*only, ",")
	if *withMillion {
		wanted = append(wanted, "keys")
	}
	for _, name := range wanted {
		if !slices.ContainsFunc(parts, func(p part) bool { return p.name == name }) {
			fmt.Fprintf(os.Stderr, "bench: there is no part %q: -only takes agents, authorizer, chat, start, keys and streams\n", name)
			os.Exit(2)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, wanted); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, wanted []string) error {
	dir, err := os.MkdirTemp("", "postern-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-tags", "lambda.norpc", "-o", dir+string(filepath.Separator),
		"./cmd/postern", "./authorizer", "./functions/chat", "./tests/bench/bare", "./tests/bench/noop", "./tests/bench/noopstream")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	v := new(verdicts)
	for _, part := range parts {
		if !slices.Contains(wanted, part.name) {
			continue
		}
		if err := part.measure(v, ctx, dir); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	if len(v.missed) > 0 {
		return fmt.Errorf("missed: %s", strings.Join(v.missed, ", "))
	}
	return nil
}

// inTurns measures each of several sides so many times, in an order drawn for each
// turn, since it matters who was before, and returns the figures of each. The first
// turn warms up, and isn't among them.
func inTurns(ctx context.Context, turns, sides int, measure func(side int) (float64, error)) ([][]float64, error) {
	figures := make([][]float64, sides)
	for turn := range turns + 1 {
		for _, side := range rand.Perm(sides) {
			figure, err := measure(side)
			if err = cmp.Or(ctx.Err(), err); err != nil {
				return nil, err
			}
			if turn > 0 {
				figures[side] = append(figures[side], figure)
			}
		}
	}
	return figures, nil
}

func median(figures []float64) float64 {
	sorted := slices.Sorted(slices.Values(figures))
	return sorted[len(sorted)/2]
}

// ratio is the median of a to b in each turn: what else the machine did then, it
// did to both.
func ratio(a, b []float64) float64 {
	ratios := make([]float64, len(a))
	for i := range a {
		ratios[i] = a[i] / b[i]
	}
	return median(ratios)
}

// show prints the median of figures.
func show(name, format string, figures []float64) {
	fmt.Printf("  %-24s "+format+"\n", name, median(figures))
}

// judge prints a figure that is to be at most, or at least, its target.
func (v *verdicts) judge(name, format string, figure float64, is string, target float64) {
	verdict := "MISSED"
	if is == "≤" && figure <= target || is == "≥" && figure >= target {
		verdict = "met"
	} else {
		v.missed = append(v.missed, name)
	}
	fmt.Printf("  %-24s "+format+"   target %s %v: %s\n", name, figure, is, target, verdict)
}
