package main

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWelch(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		a, b []float64
		want float64
	}{
		"equal samples": {[]float64{1, 2, 3}, []float64{1, 2, 3}, 0},
		// Means 3 and 6, variances 2.5 and 10: -3 / √(2.5/5 + 10/5).
		"the first is lower":  {[]float64{1, 2, 3, 4, 5}, []float64{2, 4, 6, 8, 10}, -3 / math.Sqrt(2.5)},
		"the first is higher": {[]float64{2, 4, 6, 8, 10}, []float64{1, 2, 3, 4, 5}, 3 / math.Sqrt(2.5)},
		// Means 10 and 12, variances 4/3 and 4: -2 / √(4/3/4 + 4/2).
		"of unequal size": {[]float64{9, 9, 11, 11}, []float64{12 - math.Sqrt2, 12 + math.Sqrt2}, -2 / math.Sqrt(4./3/4+4./2)},
		// R, t.test(sleep$extra ~ sleep$group): t = -1.8608.
		"Student's sleep data": {
			[]float64{0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0},
			[]float64{1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4}, -1.8608},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := ratio(welch(test.a, test.b)); math.Abs(got-test.want) > 5e-5 {
				t.Errorf("t = %v, want %v", got, test.want)
			}
		})
	}
}

func ratio(a, b float64) float64 { return a / b }

// TestWelchTellsNoiseFromADifference that is a fiftieth of the noise.
func TestWelchTellsNoiseFromADifference(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(4, 5))
	sample := func(mean float64) []float64 {
		x := make([]float64, 200_000)
		for i := range x {
			x[i] = mean + 50*r.NormFloat64()
		}
		return x
	}
	if v := ratio(welch(sample(1000), sample(1000))); math.Abs(v) >= threshold {
		t.Errorf("t = %.2f of two samples of one distribution", v)
	}
	if v := ratio(welch(sample(1000), sample(1001))); v > -threshold {
		t.Errorf("t = %.2f where the second is a nanosecond slower", v)
	}
}

func TestCropTakesOneBoundForBothSides(t *testing.T) {
	t.Parallel()
	quick, slow := []float64{1, 90, 2, 3}, []float64{4, 5, 80, 6, 7, 70}
	a, b := crop(quick, slow, 0.7)
	if diff := cmp.Diff([][]float64{{1, 2, 3}, {4, 5, 6, 7}}, [][]float64{a, b}); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]float64{1, 90, 2, 3}, quick); diff != "" {
		t.Errorf("it changed its argument (-was +is):\n%s", diff)
	}
}
