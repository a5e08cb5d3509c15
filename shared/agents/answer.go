package agents

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"

	"postern/shared/auth"
	"postern/shared/model"
)

// Bounds of the answers to one request.
const (
	concurrentAnswers = 8       // run at a time
	maxAnswers        = 8 << 20 // bytes of all of them together
)

// errAnswersTooLarge is what the models are to blame for: a request may have a
// hundred inputs, and an answer some megabytes.
var errAnswersTooLarge = fmt.Errorf("%w: the answers to one request have more than %d bytes", model.ErrTooLarge, maxAnswers)

// Answer is a run that has ended well.
type Answer struct {
	Text  string
	Agent string // Runnable.Name
	Model model.Name
	Result
}

// Answers runs to its end what caller asks for by name ("": the default), once
// for each input, some at a time; for whom the budget has no room, when others have
// given back what they didn't use. The time of a chat and maxAnswers bound all of
// them together. The first that fails ends the others, and its error, which is for
// the api's error table, is that of all.
func (c *Chat) Answers(ctx context.Context, caller auth.Caller, name string, inputs ...Input) ([]Answer, error) {
	what, found := c.runner().Find(caller, name)
	if !found {
		return nil, ErrNoAgent
	}
	ctx, cancel := c.bound(ctx, false)
	defer cancel()
	all, stop := context.WithCancel(ctx)
	defer stop()

	var (
		answers = make([]Answer, len(inputs))
		room    atomic.Int64
		first   error
		failed  sync.Once
		spent   atomic.Bool // no budget is left for more; what runs has its own set aside, and may end
		working = newCrew()
		group   sync.WaitGroup
		slots   = make(chan struct{}, concurrentAnswers)
	)
	room.Store(maxAnswers)
	for i, in := range inputs {
		slots <- struct{}{}
		if spent.Load() {
			break
		}
		group.Go(func() {
			defer func() { <-slots }()
			var err error
			working.run(func() (full bool) {
				var begun bool
				answers[i], begun, err = c.answer(all, caller, what, in, &room)
				return overBudget(err) && !begun
			})
			if err != nil {
				failed.Do(func() {
					first = failure(ctx, err)
					if overBudget(err) {
						spent.Store(true)
					} else {
						stop()
					}
				})
			}
		})
	}
	group.Wait()
	if first != nil {
		return nil, first
	}
	return answers, nil
}

// Stream runs to its end what caller asks for by name ("": the default), each of
// its events going to take as it comes; an error of take's ends the run. The time
// of a chat bounds it, and its error is as that of Answers.
func (c *Chat) Stream(ctx context.Context, caller auth.Caller, name string, in Input, take func(Event) error) error {
	what, found := c.runner().Find(caller, name)
	if !found {
		return ErrNoAgent
	}
	ctx, cancel := c.bound(ctx, true)
	defer cancel()
	if err := c.run(ctx, caller, what, in, take); err != nil {
		return failure(ctx, err)
	}
	return nil
}

// crew is the runs of one request. What one of them has set aside of its caller's
// budget and doesn't use is there for the others when it has ended.
type crew struct {
	mu             sync.Mutex
	another        *sync.Cond // has ended
	running, ended int
}

func newCrew() *crew {
	c := &crew{}
	c.another = sync.NewCond(&c.mu)
	return c
}

// run tries one of them: again, if that says that it found no room, as soon as
// another has ended that was there meanwhile.
func (c *crew) run(try func() (full bool)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running++
	for again := true; again; {
		before := c.ended
		c.mu.Unlock()
		full := try()
		c.mu.Lock()
		again = full && c.wait(before)
	}
	c.running--
	c.ended++
	c.another.Broadcast()
}

// wait waits, as one of those who run, until more have ended than before. It
// returns false if no other runs that could.
func (c *crew) wait(before int) bool {
	c.running--
	for c.ended == before && c.running > 0 {
		c.another.Wait()
	}
	c.running++
	return c.ended != before
}

// answer is one of several answers, which share room; begun says whether a model
// has answered. It runs beside the handler, where a panic would end the process.
func (c *Chat) answer(ctx context.Context, caller auth.Caller, what Runnable, in Input, room *atomic.Int64) (answer Answer, begun bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	if err := ctx.Err(); err != nil {
		return Answer{}, false, err // it has not begun, so nobody is told of a run
	}
	answer = Answer{Agent: what.Name(), Model: what.Model()}
	var text strings.Builder
	err = c.run(ctx, caller, what, in, func(event Event) error {
		begun = true
		if event.Result != nil {
			answer.Result = *event.Result
		}
		if room.Add(-int64(len(event.Text))) < 0 {
			return errAnswersTooLarge
		}
		text.WriteString(event.Text)
		return nil
	})
	answer.Text = text.String()
	return answer, begun, err
}
