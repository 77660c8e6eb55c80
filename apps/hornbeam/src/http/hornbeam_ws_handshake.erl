%% SPDX-License-Identifier: Apache-2.0

%% @private The opening handshake of a WebSocket, the server's side: RFC 6455 4.2 on HTTP/1.1, and
%% RFC 8441 on HTTP/2, where it is an extended CONNECT.
%%
%% Pure. `is_request' says whether a request asks for one at all: one that does not, such as an
%% Upgrade on HTTP/1.0, is a request like others. `check' says whether it does so well, `accept'
%% makes the response.
-module(hornbeam_ws_handshake).

%% API
-export([is_request/1]).
-export([check/1]).
-export([subprotocols/1]).
-export([accept/4]).

-export_type([handshake/0]).
-export_type([refusal/0]).

-record(handshake, {
    %% What Sec-WebSocket-Accept is made of; HTTP/2 has neither.
    key :: binary() | undefined,
    subprotocols :: [binary()],
    %% The parameters of each offer of permessage-deflate, the client's favourite first.
    offers :: [hornbeam_ws_deflate:params()]
}).

-opaque handshake() :: #handshake{}.

-type refusal() :: {400 | 426, Why :: binary(), Headers :: #{binary() => binary()}}.

%% @doc Whether a request asks for a WebSocket.
-spec is_request(hornbeam_request:incoming()) -> boolean().
is_request(#{version := 'HTTP/1.1', method := <<"GET">>, headers := Headers}) ->
    has_token(<<"websocket">>, <<"upgrade">>, Headers) andalso
        has_token(<<"upgrade">>, <<"connection">>, Headers);
is_request(#{version := 'HTTP/2', method := <<"CONNECT">>, protocol := Protocol}) ->
    Protocol =:= <<"websocket">>;
is_request(_) ->
    false.

%% Not strict, so that a malformed list is refused and not overlooked.
has_token(Token, Name, Headers) ->
    case Headers of
        #{Name := Value} ->
            Lower = cowboy_bstr:to_lower(Value),
            Dense = binary:replace(Lower, [<<" ">>, <<"\t">>], <<>>, [global]),
            lists:member(Token, binary:split(Dense, <<",">>, [global]));
        #{} ->
            false
    end.

%% @doc Check a request that asks for a WebSocket.
-spec check(hornbeam_request:incoming()) -> {ok, handshake()} | {refuse, refusal()}.
check(Req = #{headers := Headers}) ->
    case first_refusal(checks(Req), Req) of
        none ->
            {ok, #handshake{
                key = key(Req),
                subprotocols = parse(<<"sec-websocket-protocol">>, Headers),
                offers = offers(parse(<<"sec-websocket-extensions">>, Headers))
            }};
        Refusal ->
            {refuse, Refusal}
    end.

%% @doc What the client can speak inside of the WebSocket, its favourite first.
-spec subprotocols(handshake()) -> [binary()].
subprotocols(#handshake{subprotocols = Subprotocols}) ->
    Subprotocols.

%% @doc The response that opens the WebSocket, and what was agreed on for compression. Of the
%% application's headers those are left out that are the handshake's own, or that say of a body how
%% it is sent, which there is none.
-spec accept(handshake(), Subprotocol, AppHeaders, #{compress := boolean()}) ->
    {101 | 200, Headers, hornbeam_ws_deflate:deflate() | undefined}
    when Subprotocol :: binary() | undefined,
        AppHeaders :: #{binary() => iodata() | [iodata()]},
        Headers :: #{binary() => iodata() | [iodata()]}.
accept(Handshake = #handshake{key = Key}, Subprotocol, AppHeaders, #{compress := WithDeflate}) ->
    Offers = case WithDeflate of
        true -> Handshake#handshake.offers;
        false -> []
    end,
    {Extensions, Deflate} = first_accepted(Offers),
    Headers = lists:foldl(fun maps:merge/2, maps:filter(fun is_free/2, AppHeaders), [
        upgrade_headers(Key),
        optional(<<"sec-websocket-protocol">>, Subprotocol),
        optional(<<"sec-websocket-extensions">>, Extensions)
    ]),
    {status(Key), Headers, Deflate}.

%% Checks of a request.

%% On HTTP/2 the body is what the WebSocket speaks through.
checks(#{version := 'HTTP/1.1'}) ->
    [fun check_body/1, fun check_lists/1, fun check_version/1, fun check_key/1];
checks(_) ->
    [fun check_lists/1, fun check_version/1].

first_refusal([Check | Checks], Req) ->
    case Check(Req) of
        ok -> first_refusal(Checks, Req);
        Refusal -> Refusal
    end;
first_refusal([], _) ->
    none.

%% What comes after the request are frames: nobody could tell them from a body.
check_body(#{has_body := false}) -> ok;
check_body(_) -> bad_request(<<"a WebSocket handshake must not have a body">>).

%% Extensions are not among them: those are offers, and what cannot be read is not taken.
check_lists(#{headers := Headers}) ->
    Names = [<<"connection">>, <<"upgrade">>, <<"sec-websocket-protocol">>],
    case [Name || Name <- Names, parse(Name, Headers) =:= malformed] of
        [] -> ok;
        [Name | _] -> bad_request(<<"the header ", Name/binary, " is malformed">>)
    end.

check_version(#{headers := #{<<"sec-websocket-version">> := <<"13">>}}) ->
    ok;
check_version(#{version := Version}) ->
    %% RFC 9110 15.5.22: it names the protocol to upgrade to; HTTP/2 has no such header.
    Upgrade = case Version of
        'HTTP/1.1' -> upgrade_to();
        _ -> #{}
    end,
    {426, <<"the header sec-websocket-version has to be 13">>, Upgrade#{
        <<"sec-websocket-version">> => <<"13">>
    }}.

check_key(Req) ->
    case is_key(key(Req)) of
        true -> ok;
        false -> bad_request(<<"the header sec-websocket-key has to be 16 bytes in base64">>)
    end.

%% RFC 8441 5: HTTP/2 does without.
key(#{version := 'HTTP/1.1', headers := Headers}) ->
    maps:get(<<"sec-websocket-key">>, Headers, undefined);
key(_) ->
    undefined.

%% The size comes first because the decoder skips white space.
is_key(Key) when byte_size(Key) =:= 24 ->
    try byte_size(base64:decode(Key)) =:= 16
    catch error:_ -> false
    end;
is_key(_) ->
    false.

bad_request(Why) ->
    {400, Why, #{}}.

%% The elements of a header that is a list; none where it is not there.
parse(Name, Headers) ->
    case Headers of
        #{Name := Value} ->
            %% cowlib crashes on what is malformed, in several ways.
            try parser(Name, Value)
            catch error:_ -> malformed
            end;
        #{} ->
            []
    end.

parser(<<"connection">>, Value) -> cow_http_hd:parse_connection(Value);
parser(<<"upgrade">>, Value) -> cow_http_hd:parse_upgrade(Value);
parser(<<"sec-websocket-protocol">>, Value) -> cow_http_hd:parse_sec_websocket_protocol_req(Value);
parser(<<"sec-websocket-extensions">>, Value) -> cow_http_hd:parse_sec_websocket_extensions(Value).

offers(malformed) -> [];
offers(Extensions) -> [Params || {<<"permessage-deflate">>, Params} <- Extensions].

%% The response.

first_accepted([Offer | Offers]) ->
    case hornbeam_ws_deflate:negotiate(Offer) of
        {ok, Extension, Deflate} -> {Extension, Deflate};
        decline -> first_accepted(Offers)
    end;
first_accepted([]) ->
    {undefined, undefined}.

status(undefined) -> 200;
status(_) -> 101.

upgrade_headers(undefined) -> #{};
upgrade_headers(Key) -> (upgrade_to())#{<<"sec-websocket-accept">> => cow_ws:encode_key(Key)}.

upgrade_to() ->
    #{<<"connection">> => <<"Upgrade">>, <<"upgrade">> => <<"websocket">>}.

optional(_, undefined) -> #{};
optional(Name, Value) -> #{Name => Value}.

is_free(<<"sec-websocket-", _/binary>>, _) -> false;
is_free(<<"connection">>, _) -> false;
is_free(<<"upgrade">>, _) -> false;
is_free(<<"keep-alive">>, _) -> false;
is_free(<<"proxy-connection">>, _) -> false;
is_free(<<"transfer-encoding">>, _) -> false;
is_free(<<"content-length">>, _) -> false;
is_free(<<"trailer">>, _) -> false;
is_free(_, _) -> true.
