// Package sqs is the jobs.Queue of Amazon SQS, the half that sends: Lambda itself
// receives, and hands what it got to functions/worker.
//
// A message is a job's id, and nothing else. It has nothing secret, and nothing
// that could be out of date: the worker reads the job's record.
//
// A job may be sent twice. A try whose answer is lost is followed by another,
// though the first may have arrived; and SQS delivers at least once, not exactly
// once. Whoever receives bears that: the record says what is left to do. An error
// of Send doesn't say either that nothing arrived.
//
// The function's role needs sqs:SendMessage.
package sqs

import (
	"cmp"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"postern/shared/awsclient"
)

// Config says which queue, where it is and as whom it is asked.
type Config struct {
	// QueueURL is the queue's. It names the queue; where SQS is, the region says.
	QueueURL string
	// Getenv is the environment that region, credentials and the endpoint
	// (AWS_ENDPOINT_URL_SQS, AWS_ENDPOINT_URL) come from, as for any AWS SDK.
	Getenv func(string) string
	// Patience is how long a try may take; 0: 2 s. There are two tries.
	Patience time.Duration
}

// Queue is a jobs.Queue. It is safe for concurrent use.
type Queue struct {
	client   *sdk.Client
	url      *string
	patience time.Duration
}

const (
	patience = 2 * time.Second
	// retryPause comes before the second try. One retry a job makes no storm, so
	// it needs no jitter.
	retryPause = 50 * time.Millisecond
	// maxBody bounds an answer, in bytes. SQS' are a few hundred.
	maxBody = 64 << 10
	// maxText bounds what an error repeats of somebody else's text, in bytes.
	maxText = 300
)

var (
	errNonsense = errors.New("the answer makes no sense")
	errLate     = errors.New("no answer in time")
)

// New returns the Queue. It sends nothing.
func New(cfg Config) (*Queue, error) {
	if cfg.QueueURL == "" {
		return nil, errors.New("JOBS_QUEUE_URL: it is not set; template.yaml sets it")
	}
	access := awsclient.Environment(cfg.Getenv, "SQS")
	if err := access.Check("queue"); err != nil {
		return nil, err
	}
	limit := cmp.Or(cfg.Patience, patience)
	return &Queue{sdk.New(sdk.Options{
		Region:       access.Region,
		BaseEndpoint: access.Endpoint,
		Credentials:  access.Credentials,
		HTTPClient:   awsclient.NewHTTP(awsclient.Limits{Connect: limit, Body: maxBody}),
		Retryer:      aws.NopRetryer{}, // Send decides about tries
		// The SDK passes an answer without a checksum; try doesn't.
		DisableMessageChecksumValidation: true,
	}), &cfg.QueueURL, limit}, nil
}

// Send implements jobs.Queue: once it returns nil, SQS has the id. The owner is
// the message's group, by which SQS keeps the many jobs of one from holding up the
// few of another ("Amazon SQS fair queues"). A group's name has fewer characters
// than an owner's may have, so it is a digest.
func (q *Queue) Send(ctx context.Context, id, owner string) error {
	sum := sha256.Sum256([]byte(owner))
	group := hex.EncodeToString(sum[:])
	again, err := q.try(ctx, id, group)
	if again && awsclient.Pause(ctx, retryPause) {
		_, err = q.try(ctx, id, group)
	}
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("sending a job to SQS: %w", err)
	}
	return nil
}

// try sends id once. It says too whether another try makes sense.
func (q *Queue) try(ctx context.Context, id, group string) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, q.patience)
	defer cancel()
	out, err := q.client.SendMessage(ctx, &sdk.SendMessageInput{QueueUrl: q.url, MessageBody: &id, MessageGroupId: &group})
	if err != nil {
		return diagnose(err)
	}
	if sum := md5.Sum([]byte(id)); aws.ToString(out.MD5OfMessageBody) != hex.EncodeToString(sum[:]) {
		return true, errNonsense // SQS has something else, or it isn't SQS
	}
	return false, nil
}

// diagnose says whether a try that failed so is worth another, and what failed.
// What it returns doesn't wrap err, which holds the request, and repeats little
// of it: whoever answers may quote the message.
func diagnose(err error) (again bool, told error) {
	var exception smithy.APIError
	var response *smithyhttp.ResponseError
	var ended *smithy.CanceledError
	var unsent *smithyhttp.RequestSendError
	switch {
	case errors.Is(err, awsclient.ErrNoCredentials):
		return false, awsclient.ErrNoCredentials
	case errors.As(err, &ended):
		return true, errLate
	case errors.As(err, &unsent):
		return true, unanswered(unsent.Err)
	case !errors.As(err, &response): // the SDK didn't send it
		return false, fmt.Errorf("%.*q", maxText, err.Error())
	case response.HTTPStatusCode() < http.StatusMultipleChoices:
		return true, errNonsense
	}
	status, code := response.HTTPStatusCode(), ""
	told = fmt.Errorf("HTTP status %d", status)
	if errors.As(err, &exception) {
		code = exception.ErrorCode()
		told = fmt.Errorf("%w, %.64q", told, code)
	}
	switch {
	case strings.Contains(code, "AccessDenied"):
		return false, fmt.Errorf("%w: the function's role must allow sqs:SendMessage on the queue", told)
	case strings.HasSuffix(code, "QueueDoesNotExist") || strings.HasSuffix(code, "NonExistentQueue"):
		return false, fmt.Errorf("%w: there is no such queue in this region: see JOBS_QUEUE_URL and AWS_REGION", told)
	case strings.Contains(code, "Throttl"), status == http.StatusTooManyRequests, status == http.StatusRequestTimeout:
		return true, told
	}
	return status >= http.StatusInternalServerError, told
}

// unanswered says why there is no answer. The transport's own text may quote
// what came instead of one.
func unanswered(err error) error {
	var timeout net.Error
	var network *net.OpError
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return errLate
	case errors.As(err, &network):
		return fmt.Errorf("no answer: %.*q", maxText, network.Error())
	}
	return errors.New("no answer: the connection broke off")
}
