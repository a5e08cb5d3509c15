package table

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Persist calls change, which reads an item and then writes it, until nobody else
// has written in between; any error but ErrConflict is the last. Each time somebody
// has, a change of theirs is done, so all get their turn. It goes on whatever has
// become of ctx, though no longer than patience.
func Persist(ctx context.Context, patience time.Duration, change func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	for try := 1; ; try++ {
		err := change(ctx)
		if !errors.Is(err, ErrConflict) {
			return err
		}
		timer := time.NewTimer(rand.N(time.Duration(min(try, 20)) * 2 * time.Millisecond)) // so that those who collided don't do so again
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("others were faster %d times: %w", try, ctx.Err())
		}
	}
}
