package sqsfake

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-lambda-go/events"

	"postern/tests/lambdahost"
)

// Mapping is Lambda's event source mapping between a queue and a function, as
// template.yaml's SQS event makes it, with ReportBatchItemFailures
// (https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html).
//
// It receives up to BatchSize messages, invokes the function with them, and
// deletes what succeeded; the rest is visible again when its timeout ends. A
// function that fails, or answers what can't be read, has failed at all of them.
type Mapping struct {
	Queue    *Queue
	Function Function

	BatchSize          int // 0: 10
	MaximumConcurrency int // invocations at once; 0: 1
}

// Function is what is invoked: a *lambdahost.Host.
type Function interface {
	Invoke(ctx context.Context, event []byte) (*lambdahost.Result, error)
}

// Run does that as messages come, until ctx ends or the server is closed. An
// invocation that is under way then ends with ctx, and its messages stay.
func (m Mapping) Run(ctx context.Context) {
	var all sync.WaitGroup
	for range cmp.Or(m.MaximumConcurrency, 1) {
		all.Go(func() {
			for m.Queue.await(ctx) {
				if batch := m.Queue.receive(cmp.Or(m.BatchSize, 10)); len(batch) > 0 {
					m.deliver(ctx, batch)
				}
			}
		})
	}
	all.Wait()
}

// deliver hands a batch to the function and deletes what it is done with.
func (m Mapping) deliver(ctx context.Context, batch []message) {
	result, err := m.Function.Invoke(ctx, m.event(batch))
	if err != nil || result.Err != nil {
		return
	}
	failed, readable := failures(result.Payload, batch)
	if !readable {
		return
	}
	for _, msg := range batch {
		if !slices.Contains(failed, msg.id) {
			m.Queue.delete(msg.receipt)
		}
	}
}

// event is what Lambda makes of messages.
func (m Mapping) event(batch []message) []byte {
	var e events.SQSEvent
	for _, msg := range batch {
		e.Records = append(e.Records, events.SQSMessage{
			MessageId: msg.id, ReceiptHandle: msg.receipt, Body: msg.body, Md5OfBody: sum(msg.body),
			Attributes: msg.attributes(), MessageAttributes: map[string]events.SQSMessageAttribute{},
			EventSource: "aws:sqs", EventSourceARN: m.Queue.ARN(), AWSRegion: region,
		})
	}
	encoded, _ := json.Marshal(e) // can't fail
	return encoded
}

// failures reads an answer as Lambda does: an empty one, null, or an empty or
// absent list name no failure; what is no JSON object, or names a message that
// wasn't in the batch, can't be read. Keys are exact.
func failures(answer []byte, batch []message) (failed []string, readable bool) {
	if len(answer) == 0 {
		return nil, true
	}
	var response map[string]any
	if json.Unmarshal(answer, &response) != nil {
		return nil, false
	}
	switch list := response["batchItemFailures"].(type) {
	case nil:
		return nil, true
	case []any:
		for _, entry := range list {
			named, _ := entry.(map[string]any)
			id, _ := named["itemIdentifier"].(string)
			if !slices.ContainsFunc(batch, func(msg message) bool { return msg.id == id }) {
				return nil, false
			}
			failed = append(failed, id)
		}
		return failed, true
	}
	return nil, false
}

// await returns true as soon as a message is visible, and false when ctx ends or
// the server is closed.
func (q *Queue) await(ctx context.Context) bool {
	for {
		q.server.mu.Lock()
		due, there := q.next()
		wait, changed := time.Until(due), q.server.changed
		q.server.mu.Unlock()
		var timer <-chan time.Time
		if there {
			timer = time.After(wait) // at once, if it is visible
		}
		select {
		case <-ctx.Done():
			return false
		case <-q.server.closed:
			return false
		case <-changed:
		case <-timer:
			if wait <= 0 {
				return ctx.Err() == nil
			}
		}
	}
}
