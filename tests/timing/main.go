// Timing shows promise P3: the time in which a token is refused depends neither
// on how much of it is right, nor on whether there is a key of its id.
//
// It measures one verification at a time, as the authorizer and the local server
// make it, of two kinds of tokens in random order: a token of the one kind, a
// token of the other, each new in memory as a request's is. Then it compares the
// means by Welch's t-test. A difference that chance alone explains gives |t| <
// 4.5 all but always (seven in a million). This is the method of O. Reparaz, J.
// Balasch and I. Verbauwhede, "dude, is my code constant time?", DATE 2017, with
// its crop too: the slowest tenth of all samples, both kinds together, are what
// the machine did meanwhile, and are left out. The garbage collector runs between
// batches, never in one.
//
// A comparison that shows a difference is made once more, with other tokens.
// Twice is a leak, and the program exits with 1. What a line's last column says
// would have been a difference too; what is smaller isn't seen here.
//
// The first look-up of an id asks the table. How long that takes is the table's
// affair, and is printed for information.
//
// Usage: make timing, or go run ./tests/timing.
package main

import (
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"time"
)

const (
	threshold = 4.5  // of |t|, the paper's
	kept      = 0.90 // of the samples, the quickest
	batch     = 10_000
)

func main() {
	samples := flag.Int("samples", 300_000, "measurements of each comparison")
	flag.Parse()
	leaks, err := run(*samples)
	if err != nil {
		fmt.Fprintln(os.Stderr, "timing:", err)
	}
	if leaks > 0 {
		fmt.Fprintf(os.Stderr, "timing: %d of the comparisons show a difference\n", leaks)
	}
	if err != nil || leaks > 0 {
		os.Exit(1)
	}
}

// run makes every comparison and counts those that leak.
func run(samples int) (leaks int, err error) {
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	ctx := context.Background()
	fmt.Printf("%d samples of each comparison, two kinds of tokens in random order; a leak is |t| ≥ %v twice\n\n", samples, threshold)
	fmt.Printf("%-72s %8s %9s %9s %9s\n", "", "t", "mean", "differs", "seen from")
	for _, c := range comparisons() {
		leaky := true
		for try := 0; leaky && try < 2; try++ {
			r, err := c.measure(ctx, samples)
			if err != nil {
				return leaks, fmt.Errorf("%s: %w", c.name, err)
			}
			leaky = r.t >= threshold
			fmt.Printf("%-72s %8.2f %6.0f ns %6.1f ns %6.1f ns%s\n", c.name, r.t, r.mean, r.differs, r.seen, c.verdict(leaky, try))
			if c.forInformation {
				leaky = false
			}
		}
		if leaky {
			leaks++
		}
	}
	return leaks, nil
}

func (c comparison) verdict(leaky bool, try int) string {
	switch {
	case c.forInformation:
		return "   for information"
	case leaky && try == 0:
		return "   once more"
	case leaky:
		return "   LEAK"
	}
	return ""
}

// result is what a comparison has shown.
type result struct {
	t       float64 // of what the kinds differ by beyond what they may, either way
	mean    float64 // of both kinds
	differs float64 // the first kind's mean less the second's
	seen    float64 // the difference that would have been |t| = threshold
}

// measure sets a comparison up anew and makes it.
func (c comparison) measure(ctx context.Context, samples int) (result, error) {
	s, err := c.setUp(ctx)
	if err != nil {
		return result{}, err
	}
	var took [2][]float64
	for i := range took {
		took[i] = make([]float64, 0, samples)
	}
	for n := range samples + 2*batch {
		if n%batch == 0 {
			runtime.GC()
		}
		kind := rand.IntN(2)
		token := s.tokens[kind][rand.IntN(len(s.tokens[kind]))]
		header := []string{"Bearer " + token}
		begin := time.Now()
		_, err := s.verifier.Verify(ctx, header, nil)
		ns := time.Since(begin)
		if err != s.want {
			return result{}, fmt.Errorf("a token of kind %d: %v, want %v", kind, err, s.want)
		}
		if n >= 2*batch { // they warm up
			took[kind] = append(took[kind], float64(ns))
		}
	}
	a, b := crop(took[0], took[1], kept)
	meanA, _ := moments(a)
	meanB, _ := moments(b)
	differs, deviation := welch(a, b)
	t := max(math.Abs(differs)-c.mayDiffer, 0) / deviation
	return result{t, (meanA + meanB) / 2, differs, c.mayDiffer + threshold*deviation}, nil
}
