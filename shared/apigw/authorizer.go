package apigw

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"

	"github.com/aws/aws-lambda-go/events"

	"postern/shared/api"
	"postern/shared/auth"
)

// errUnauthorized is the one error that API Gateway answers with 401; its text
// must be exactly this
// (docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-lambda-authorizer-output.html).
var errUnauthorized = errors.New("Unauthorized")

// Authorizer is the Lambda authorizer. It says who calls and from where, and
// leaves what they may do to the functions:
//
//	a valid credential          Allow, for every route of the stage, with the caller
//	                            as context
//	a missing or wrong one      the error "Unauthorized"   → 401
//	an address not allowed      Deny                       → 403
//	a store that can't be asked any other error            → 503
type Authorizer struct {
	Verifier  *auth.Verifier
	Addresses auth.Addresses
	Log       *slog.Logger

	// DenyRefused answers a wrong credential with a Deny policy too: `sam local`
	// turns an authorizer's error into 502.
	DenyRefused bool
}

// Handle is what aws-lambda-go starts.
func (a *Authorizer) Handle(ctx context.Context, event events.APIGatewayCustomAuthorizerRequestTypeRequest) (events.APIGatewayCustomAuthorizerResponse, error) {
	from, _ := netip.ParseAddr(event.RequestContext.Identity.SourceIP)
	from = from.Unmap()
	caller, err := a.Verifier.Verify(ctx, values(event, "Authorization"), values(event, "X-API-Key"))
	if err == nil && !(a.Addresses.Contain(from) && caller.Addresses.Contain(from)) {
		err = auth.ErrAddress
	}
	if err == nil {
		policy := policyFor("Allow", caller.ID, event.MethodArn)
		if policy.Context, err = auth.ContextOf(caller); err == nil {
			return policy, nil
		}
	}
	a.logRefusal(ctx, event, from, err)
	var reason auth.Reason
	refused := errors.As(err, &reason)
	switch {
	case errors.Is(err, auth.ErrAddress), refused && a.DenyRefused:
		return policyFor("Deny", "refused", event.MethodArn), nil
	case refused:
		return events.APIGatewayCustomAuthorizerResponse{}, errUnauthorized
	default:
		// Its text goes into API Gateway's log, so it is a constant one.
		return events.APIGatewayCustomAuthorizerResponse{}, auth.ErrUnavailable
	}
}

// values are all values of a header, whose name may be written in any case, and
// even in several.
func values(event events.APIGatewayCustomAuthorizerRequestTypeRequest, name string) []string {
	var found []string
	for k, v := range event.MultiValueHeaders {
		if strings.EqualFold(k, name) {
			if found == nil {
				found = v
			} else {
				found = append(found[:len(found):len(found)], v...)
			}
		}
	}
	if event.MultiValueHeaders == nil {
		for k, v := range event.Headers {
			if strings.EqualFold(k, name) {
				found = append(found, v)
			}
		}
	}
	return found
}

// invoke is the one action there is. Nobody writes into it.
var invoke = []string{"execute-api:Invoke"}

// policyFor covers every route of the stage: a policy that is cached, or whose
// Resource is one request's own ARN, would answer for the wrong ones, and the
// ARN of a long path exceeds the 512 characters a Resource may have.
func policyFor(effect, principal, methodARN string) events.APIGatewayCustomAuthorizerResponse {
	return events.APIGatewayCustomAuthorizerResponse{
		PrincipalID: principal,
		PolicyDocument: events.APIGatewayCustomAuthorizerPolicy{
			Version: "2012-10-17",
			Statement: []events.IAMPolicyStatement{{
				Action:   invoke,
				Effect:   effect,
				Resource: []string{stageARN(methodARN)},
			}},
		},
	}
}

// stageARN turns arn:…:api/stage/METHOD/path into arn:…:api/stage/*.
func stageARN(methodARN string) string {
	api, rest, _ := strings.Cut(methodARN, "/")
	stage, _, _ := strings.Cut(rest, "/")
	return api + "/" + stage + "/*"
}

// logRefusal writes what the functions' event line has, for a request that
// never reaches one.
func (a *Authorizer) logRefusal(ctx context.Context, event events.APIGatewayCustomAuthorizerRequestTypeRequest, from netip.Addr, err error) {
	attrs := []slog.Attr{
		slog.String("request_id", event.RequestContext.RequestID),
		slog.String("decision", "deny"),
		slog.String("ip", api.AddressText(from)),
	}
	var reason auth.Reason
	level, message := slog.LevelError, "authentication unavailable"
	switch {
	case errors.As(err, &reason):
		level, message = slog.LevelWarn, api.RefusalMessage(from)
		attrs = append(attrs, slog.String("reason", string(reason)))
		if a.Log.Enabled(ctx, slog.LevelDebug) {
			attrs = append(attrs, slog.Any("credential_headers", credentialHeaders(event)))
		}
	case errors.Is(err, auth.ErrAddress):
		level, message = slog.LevelWarn, "request refused"
		attrs = append(attrs, slog.String("reason", "address"))
	default:
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	a.Log.LogAttrs(ctx, level, message, attrs...)
}

func credentialHeaders(event events.APIGatewayCustomAuthorizerRequestTypeRequest) []string {
	h := http.Header{}
	for name := range event.MultiValueHeaders {
		h.Set(name, "")
	}
	for name := range event.Headers {
		h.Set(name, "")
	}
	return api.CredentialHeaders(h)
}
