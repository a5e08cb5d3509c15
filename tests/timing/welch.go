package main

import (
	"math"
	"slices"
)

// welch is by how much the means of two samples differ, and the standard error of
// that where their variances are unequal; one in units of the other is Welch's t.
// B. L. Welch, "The generalization of 'Student's' problem when several different
// population variances are involved", Biometrika 34, 1947.
func welch(a, b []float64) (differs, deviation float64) {
	meanA, varianceA := moments(a)
	meanB, varianceB := moments(b)
	return meanA - meanB, math.Sqrt(varianceA/float64(len(a)) + varianceB/float64(len(b)))
}

// moments are the mean and the unbiased variance.
func moments(x []float64) (mean, variance float64) {
	for _, v := range x {
		mean += v
	}
	mean /= float64(len(x))
	for _, v := range x {
		variance += (v - mean) * (v - mean)
	}
	return mean, variance / float64(len(x)-1)
}

// crop drops from both samples what is above a quantile of the two together:
// measurements that something else interrupted. The bound is one for both, so a
// side that is slower loses more and shows all the same.
func crop(a, b []float64, quantile float64) (croppedA, croppedB []float64) {
	pooled := slices.Sorted(slices.Values(slices.Concat(a, b)))
	bound := pooled[int(quantile*float64(len(pooled)-1))]
	above := func(v float64) bool { return v > bound }
	return slices.DeleteFunc(slices.Clone(a), above), slices.DeleteFunc(slices.Clone(b), above)
}
