// Package bedrock is the model.Model of Amazon Bedrock: each model that its
// Converse API runs (Amazon Bedrock API Reference, "ConverseStream", "Converse").
// A request's Model is what that API calls modelId: the id of a model
// ("anthropic.claude-3-5-sonnet-20241022-v2:0"), of an inference profile
// ("eu.amazon.nova-lite-v1:0"), or the ARN of one. On AWS the function's role
// needs bedrock:InvokeModelWithResponseStream for it, and bedrock:InvokeModel.
//
// A request is asked by ConverseStream. Where that is refused because the model
// doesn't stream, or not with tools, the same request goes to Converse, and its
// answer comes all at once. Which models those are is not remembered: it differs
// from request to request and changes with time, and a refusal costs one round
// trip.
//
// On AWS and on one machine alike, the environment says where Bedrock is and as
// whom it is asked (package awsclient). A program that may load a profile of
// ~/.aws hands it over by WithCredentials.
//
// request.go turns a model.Request into Converse's shape, answer.go its events
// into ours, whole.go an answer without a stream into those events, failure.go
// its exceptions into the failures that package model promises;
// transport.go bounds what is read. Whatever fails before the first event of an
// answer, or the first byte of one without a stream, and would not fail again for
// the same reason, is tried once more; after it nothing is. An answer is whole
// only with both its stop reason and its usage: one that ends without is a
// failure, not a short answer.
//
// A Request whose Messages hold tool calls needs its Tools too, or Bedrock
// refuses it.
package bedrock

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"
	"github.com/aws/smithy-go/transport/http/protocol/restjson1"

	"postern/shared/awsclient"
	"postern/shared/model"
)

// Provider is the first half of these models' full names, bedrock/<id>.
const Provider = "bedrock"

const (
	// retryPause comes before the second try. One retry a request makes no
	// storm, so it needs no jitter.
	retryPause = 250 * time.Millisecond
	// linger is how long a finished answer waits for the end of its body, which
	// lets the connection be used again.
	linger = 50 * time.Millisecond
)

// Option is what New can't learn from the environment.
type Option func(*awsclient.Access)

// WithCredentials signs requests with the credentials that provider gives, and
// sends them to region; an empty region leaves AWS_REGION's. It is for profiles:
// a program that may import the SDK's config package passes its Config's Region
// and Credentials. The provider is asked before each request, so it should cache.
func WithCredentials(region string, provider aws.CredentialsProvider) Option {
	return func(a *awsclient.Access) { *a = a.As(region, provider) }
}

// New returns the models of one region. It sends nothing. Region, credentials
// (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN) and the endpoint
// (AWS_ENDPOINT_URL_BEDROCK_RUNTIME, AWS_ENDPOINT_URL) come from the
// environment, as for any AWS SDK. Credentials are read at each request: without
// them it fails with model.ErrUnavailable. The Model may be used by many callers
// at once.
func New(getenv func(string) string, with ...Option) (model.Model, error) {
	access := awsclient.Environment(getenv, "BEDROCK_RUNTIME")
	for _, option := range with {
		option(&access)
	}
	if err := access.Check("model"); err != nil {
		return nil, err
	}
	return &backend{bedrockruntime.New(bedrockruntime.Options{
		Region:       access.Region,
		BaseEndpoint: access.Endpoint,
		Credentials:  access.Credentials,
		HTTPClient:   bounded{awsclient.NewHTTP(awsclient.Limits{Body: maxAnswer})},
		Retryer:      aws.NopRetryer{}, // Stream decides about tries
	}, withoutBearerToken)}, nil
}

// withoutBearerToken undoes what the SDK takes from AWS_BEARER_TOKEN_BEDROCK,
// past getenv: the credentials above are the only ones.
func withoutBearerToken(o *bedrockruntime.Options) {
	o.BearerAuthTokenProvider = nil
	o.AuthSchemePreference = nil
}

type backend struct{ client *bedrockruntime.Client }

// Stream implements model.Model.
func (b *backend) Stream(ctx context.Context, req model.Request) iter.Seq2[model.Event, error] {
	return func(yield func(model.Event, error) bool) {
		input, err := newInput(req)
		if err != nil {
			yield(model.Event{}, err)
			return
		}
		for first := true; ; first = false {
			begun, err := b.call(ctx, input, yield)
			if err == nil {
				return
			}
			told, passing := diagnose(err)
			if first && !begun && passing && (!req.Once || model.Unused(told)) && awsclient.Pause(ctx, retryPause) {
				continue
			}
			if end := ended(ctx); end != nil {
				told = end
			}
			yield(model.Event{}, told)
			return
		}
	}
}

// call runs input once. It returns nil if the answer is whole or its consumer
// has broken out, and reports whether any event had arrived.
func (b *backend) call(ctx context.Context, input *bedrockruntime.ConverseStreamInput, yield func(model.Event, error) bool) (begun bool, err error) {
	stream, err := b.ask(ctx, input)
	if err != nil {
		return errors.Is(err, errCut), err
	}
	defer stream.Close()

	var a answer
	for part := range stream.Events() {
		begun = true
		event, err := a.take(part)
		switch {
		case err != nil:
			return true, err
		case ctx.Err() != nil: // what is left of a whole answer would come all the same
			return true, ctx.Err()
		case event.Stop != "":
			drain(stream.Events())
			yield(event, nil)
			return true, nil
		case event != model.Event{} && !yield(event, nil):
			return true, nil
		}
	}
	if err := stream.Err(); err != nil {
		return begun, err
	}
	return begun, errCut
}

// ask returns the answer to input, which may have come whole. A failure that is
// errCut is that of a whole one on its way: it is on the bill.
func (b *backend) ask(ctx context.Context, input *bedrockruntime.ConverseStreamInput) (bedrockruntime.ConverseStreamOutputReader, error) {
	out, err := b.client.ConverseStream(ctx, input, withOwnCodec)
	if err == nil {
		return out.GetStream(), nil
	}
	if !unstreamed(err) {
		return nil, err
	}
	all, err := b.client.Converse(ctx, wholeInput(input))
	if err != nil {
		return nil, err
	}
	return newWhole(all)
}

// withOwnCodec gives a call its own codec. The client's is shared by all of its
// streams without a lock: a data race, and a panic where two meet an unknown
// event at once (https://github.com/aws/smithy-go/issues/714).
func withOwnCodec(o *bedrockruntime.Options) { o.Protocol = restjson1.New(nil) }

// drain takes what is left of an answer that is whole.
func drain(rest <-chan types.ConverseStreamOutput) {
	late := time.NewTimer(linger)
	defer late.Stop()
	for {
		select {
		case _, more := <-rest:
			if !more {
				return
			}
		case <-late.C:
			return
		}
	}
}
