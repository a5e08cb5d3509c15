package table

import "sync"

// atOnce is how many questions Each puts to a table at once.
const atOnce = 16

// Each calls f with 0 to n-1, several of them at once, and returns the first of
// the errors in that order.
func Each(n int, f func(i int) error) error {
	errs := make([]error, n)
	running := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for i := range n {
		running <- struct{}{}
		all.Go(func() {
			errs[i] = f(i)
			<-running
		})
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
