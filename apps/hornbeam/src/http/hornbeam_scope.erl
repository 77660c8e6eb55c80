%% SPDX-License-Identifier: Apache-2.0

%% @private From Cowboy's request to the scope that travels to Python.
%%
%% Pure. Also says no where Cowboy is more lenient than RFC 9112 asks a server to be: Cowboy splits
%% header lines at CRLF only, so that a bare CR or LF stays inside a value, takes any byte in names
%% and targets, takes a sign in Content-Length, and takes chunked bodies from HTTP/1.0. Of HTTP/2 it
%% takes any method, target, scheme and host (RFC 9113 8.3).
-module(hornbeam_scope).

%% API
-export([check/2]).
-export([settled/2]).
-export([new/3]).
-export([of_websocket/1]).
-export([with_tls/2]).
-export([version/1]).
-export([takes_trailers/1]).

-export_type([limits/0, refusal/0]).

-type limits() :: #{
    max_request_line_size := pos_integer(),
    max_header_size := pos_integer(),
    max_headers := pos_integer(),
    max_body := non_neg_integer() | infinity,
    http_version := [atom()],
    _ => _
}.

-type refusal() :: {Status :: 400..599, Why :: binary()}.

%% ": " and CRLF of a header line; two spaces and the version of a request line.
-define(HEADER_OVERHEAD, 4).
-define(REQUEST_LINE_OVERHEAD, 10).
%% Nobody can send as much: it is meant for a peer that counts in 64 bits or less.
-define(MAX_BODY, 16#7FFFFFFFFFFFFFFF).

%% @doc Whether the request may go to the application, or the answer that refuses it.
-spec check(hornbeam_request:incoming(), limits()) -> ok | {refuse, refusal()}.
check(Req, Limits) ->
    %% Once per request: no list of funs, as for what only HTTP/2 needs.
    case check_version(Req, Limits) of
        ok -> check_request_line(Req, Limits);
        Refusal -> {refuse, Refusal}
    end.

check_request_line(Req, Limits) ->
    case check_target(Req, Limits) of
        ok -> check_header_section(Req, Limits);
        Refusal -> {refuse, Refusal}
    end.

check_header_section(Req = #{headers := Headers}, Limits) ->
    case check_count(Headers, Limits) of
        ok ->
            case check_headers(maps:to_list(Headers), Limits) of
                ok -> check_message(Req, Limits);
                Refusal -> {refuse, Refusal}
            end;
        Refusal ->
            {refuse, Refusal}
    end.

check_message(Req = #{headers := Headers}, Limits) ->
    case check_host(Headers) of
        ok -> check_connection_and_framing(Req, Limits);
        Refusal -> {refuse, Refusal}
    end.

check_connection_and_framing(Req = #{headers := Headers}, Limits) ->
    case check_connection(Headers) of
        ok ->
            case check_framing(Req, Limits) of
                ok -> check_http2(Req);
                Refusal -> {refuse, Refusal}
            end;
        Refusal ->
            {refuse, Refusal}
    end.

%% @doc The scope of docs/protocol.md. `Client' and `Server' are made once per connection.
-spec new(hornbeam_request:incoming(), Client, Server) -> hornbeam_protocol:scope()
    when Client :: {binary(), inet:port_number()} | undefined,
         Server :: {binary(), inet:port_number() | undefined}.
new(Req, Client, Server) ->
    #{method := Method, scheme := Scheme, version := Version, path := Path, qs := Query} = Req,
    {Method, Scheme, version(Version), Path, Query, headers(Req), Client, Server, #{}}.

%% @doc An HTTP/2 request in the form of others. Its host stands in a pseudo-header that Cowboy has
%% taken apart (RFC 9113 8.3.1; ASGI wants it), and its scheme is what the client says, whatever
%% the connection is.
-spec settled(hornbeam_request:incoming(), Scheme :: binary()) -> hornbeam_request:incoming().
settled(Req = #{headers := Headers}, Scheme) ->
    Req#{headers := maps:merge(#{<<"host">> => authority(Req)}, Headers), scheme := Scheme}.

%% @doc The same for a WebSocket's handshake.
-spec of_websocket(hornbeam_protocol:scope()) -> hornbeam_protocol:scope().
of_websocket(Scope) ->
    setelement(2, Scope, websocket_scheme(element(2, Scope))).

websocket_scheme(<<"https">>) -> <<"wss">>;
websocket_scheme(_) -> <<"ws">>.

%% @doc The scope with what is known of its connection's TLS, where it has any.
-spec with_tls(hornbeam_protocol:scope(), hornbeam_protocol:tls() | undefined) ->
    hornbeam_protocol:scope().
with_tls(Scope, undefined) -> Scope;
with_tls(Scope, Tls) -> setelement(9, Scope, (element(9, Scope))#{tls => Tls}).

%% @doc HTTP version as ASGI writes it.
-spec version(cowboy:http_version()) -> binary().
version('HTTP/1.1') -> <<"1.1">>;
version('HTTP/1.0') -> <<"1.0">>;
version('HTTP/2') -> <<"2">>.

%% @doc Whether the client has said that it takes trailers.
-spec takes_trailers(hornbeam_request:incoming()) -> boolean().
takes_trailers(#{headers := #{<<"te">> := TE}}) ->
    %% Cowlib's, which fails for what is malformed.
    try cow_http_hd:parse_te(TE) of
        {Trailers, _} -> Trailers =:= trailers
    catch
        error:_ -> false
    end;
takes_trailers(_) ->
    false.

%% Cowboy has taken Transfer-Encoding out; an application may want to know.
headers(#{headers := Headers, has_body := true, body_length := undefined, version := Version})
        when Version =/= 'HTTP/2' ->
    maps:to_list(Headers#{<<"transfer-encoding">> => <<"chunked">>});
headers(#{headers := Headers}) ->
    maps:to_list(Headers).

authority(#{scheme := <<"http">>, host := Host, port := 80}) -> Host;
authority(#{scheme := <<"https">>, host := Host, port := 443}) -> Host;
authority(#{host := Host, port := Port}) ->
    <<Host/binary, $:, (integer_to_binary(Port))/binary>>.

check_version(#{version := Version}, #{http_version := Versions}) ->
    %% HTTP/1.0 is part of 'HTTP/1.1': a server of the one answers the other (RFC 9110 2.5).
    Wanted = case Version of
        'HTTP/1.0' -> 'HTTP/1.1';
        _ -> Version
    end,
    case lists:member(Wanted, Versions) of
        true -> ok;
        false -> {505, <<"this HTTP version is not enabled">>}
    end.

check_target(#{method := Method, path := Path, qs := Query}, Limits) ->
    #{max_request_line_size := Max} = Limits,
    Size = byte_size(Method) + byte_size(Path) + query_size(Query) + ?REQUEST_LINE_OVERHEAD,
    case Size > Max of
        true ->
            {414, <<"the request line is too long">>};
        false ->
            case is_visible(Path) andalso is_visible(Query) of
                true -> check_method(Method);
                false -> {400, <<"control character in the request target">>}
            end
    end.

check_method(Method) ->
    case is_token(Method) of
        true -> ok;
        false -> {400, <<"the method is not a token">>}
    end.

query_size(<<>>) -> 0;
query_size(Query) -> byte_size(Query) + 1.

%% Bytes above 127 are not allowed by RFC 3986 but sent by clients and taken by every peer.
is_visible(<<Byte, Rest/binary>>) when Byte > 32, Byte =/= 127 -> is_visible(Rest);
is_visible(<<>>) -> true;
is_visible(_) -> false.

%% Of HTTP/2 Cowboy counts none.
check_count(Headers, #{max_headers := Max}) when map_size(Headers) > Max ->
    {431, <<"too many headers">>};
check_count(_, _) ->
    ok.

check_headers(Headers, #{max_header_size := Max}) ->
    case check_headers(Headers, 0, Max) of
        {ok, Size} when Size =< Max -> ok;
        {ok, _} -> {431, <<"the header section is too large">>};
        Refusal -> Refusal
    end.

check_headers([{Name, Value} | Rest], Size, Max) ->
    case is_name(Name) of
        true ->
            case is_field_value(Value) of
                true ->
                    Size1 = Size + byte_size(Name) + byte_size(Value) + ?HEADER_OVERHEAD,
                    check_headers(Rest, Size1, Max);
                false ->
                    {400, <<"CR, LF or NUL in a header value">>}
            end;
        false ->
            {400, <<"a header name is not a token">>}
    end;
check_headers([], Size, _) ->
    {ok, Size}.

%% What clients send most is known at a glance: a third of the time that its bytes take.
is_name(<<"accept">>) -> true;
is_name(<<"accept-encoding">>) -> true;
is_name(<<"accept-language">>) -> true;
is_name(<<"authorization">>) -> true;
is_name(<<"cache-control">>) -> true;
is_name(<<"connection">>) -> true;
is_name(<<"content-length">>) -> true;
is_name(<<"content-type">>) -> true;
is_name(<<"cookie">>) -> true;
is_name(<<"dnt">>) -> true;
is_name(<<"host">>) -> true;
is_name(<<"if-modified-since">>) -> true;
is_name(<<"if-none-match">>) -> true;
is_name(<<"origin">>) -> true;
is_name(<<"pragma">>) -> true;
is_name(<<"priority">>) -> true;
is_name(<<"range">>) -> true;
is_name(<<"referer">>) -> true;
is_name(<<"sec-ch-ua">>) -> true;
is_name(<<"sec-ch-ua-mobile">>) -> true;
is_name(<<"sec-ch-ua-platform">>) -> true;
is_name(<<"sec-fetch-dest">>) -> true;
is_name(<<"sec-fetch-mode">>) -> true;
is_name(<<"sec-fetch-site">>) -> true;
is_name(<<"sec-fetch-user">>) -> true;
is_name(<<"te">>) -> true;
is_name(<<"traceparent">>) -> true;
is_name(<<"upgrade-insecure-requests">>) -> true;
is_name(<<"user-agent">>) -> true;
is_name(<<"x-forwarded-for">>) -> true;
is_name(<<"x-forwarded-host">>) -> true;
is_name(<<"x-forwarded-port">>) -> true;
is_name(<<"x-forwarded-proto">>) -> true;
is_name(<<"x-real-ip">>) -> true;
is_name(<<"x-request-id">>) -> true;
is_name(<<"x-requested-with">>) -> true;
is_name(Name) -> is_token(Name).

%% RFC 9110 5.6.2, in lower case as Cowboy gives names; the upper bound of the fast clause first.
is_token(<<>>) -> false;
is_token(Name) -> is_token_rest(Name).

is_token_rest(<<C, Rest/binary>>) when C >= $a, C =< $z; C =:= $- -> is_token_rest(Rest);
is_token_rest(<<C, Rest/binary>>)
        when C >= $0, C =< $9; C =:= $_; C =:= $.; C =:= $!; C =:= $#; C =:= $$; C =:= $%;
             C =:= $&; C =:= $'; C =:= $*; C =:= $+; C =:= $^; C =:= $`; C =:= $|; C =:= $~;
             C >= $A, C =< $Z ->
    is_token_rest(Rest);
is_token_rest(<<>>) -> true;
is_token_rest(_) -> false.

%% RFC 9110 5.5: CR, LF and NUL are dangerous and make a message invalid.
%%
%% Four bytes at a time, which takes half the time: the expression is 0 if none of them is below 14
%% (where one is, the subtraction sets the top bit that it did not have).
is_field_value(<<Four:32, Rest/binary>>)
        when (Four - 16#0E0E0E0E) band (bnot Four) band 16#80808080 =:= 0 ->
    is_field_value(Rest);
is_field_value(<<C, Rest/binary>>) when C =/= 0, C =/= 10, C =/= 13 -> is_field_value(Rest);
is_field_value(<<>>) -> true;
is_field_value(_) -> false.

%% RFC 3986 3.2.3: a port is digits; Cowboy takes a plus sign before them as well, and a port
%% without a host.
check_host(#{<<"host">> := <<":", _/binary>>}) ->
    {400, <<"a port without a host in Host">>};
check_host(#{<<"host">> := Host}) ->
    case has_signed_port(Host) of
        false -> ok;
        true -> {400, <<"the port in Host is not a number">>}
    end;
check_host(_) ->
    ok.

%% By hand: binary:match/2 takes ten times as long for so few bytes.
has_signed_port(<<$:, $+, _/binary>>) -> true;
has_signed_port(<<_, Rest/binary>>) -> has_signed_port(Rest);
has_signed_port(<<>>) -> false.

%% Cowboy says so when the request has begun already.
check_connection(#{<<"connection">> := Options}) ->
    case is_connection(Options) of
        true -> ok;
        false -> {400, <<"Connection is not a list of options">>}
    end;
check_connection(_) ->
    ok.

is_connection(<<"keep-alive">>) -> true;
is_connection(<<"Keep-Alive">>) -> true;
is_connection(<<"close">>) -> true;
is_connection(Options) ->
    try cow_http_hd:parse_connection(Options) of
        [_ | _] -> true
    catch
        error:_ -> false
    end.

check_framing(#{version := 'HTTP/1.0', has_body := true, body_length := undefined}, _) ->
    {400, <<"Transfer-Encoding in an HTTP/1.0 request">>};
%% `00': to Cowboy a body of no bytes that is never complete.
check_framing(#{has_body := true, body_length := 0, version := Version}, _)
        when Version =/= 'HTTP/2' ->
    {400, <<"Content-Length begins with zeros">>};
check_framing(#{headers := #{<<"content-length">> := Length}} = Req, Limits) ->
    case is_digits(Length) of
        true -> check_body_length(Req, Limits);
        false -> {400, <<"Content-Length is not a number">>}
    end;
check_framing(Req, Limits) ->
    check_body_length(Req, Limits).

check_http2(Req = #{version := 'HTTP/2'}) ->
    Checks = [
        {fun has_no_proxy_connection/1, <<"proxy-connection is not for HTTP/2">>},
        {fun is_path/1, <<":path does not begin with a slash">>},
        {fun is_scheme/1, <<":scheme is neither http nor https">>},
        {fun is_authority/1, <<":authority is not a host">>},
        {fun is_same_host/1, <<"Host and :authority differ">>},
        {fun is_trimmed/1, <<"a header value begins or ends with a space">>}
    ],
    first_wrong(Checks, Req);
check_http2(_) ->
    ok.

first_wrong([{IsRight, Why} | Rest], Req) ->
    case IsRight(Req) of
        true -> first_wrong(Rest, Req);
        false -> {refuse, {400, Why}}
    end;
first_wrong([], _) ->
    ok.

has_no_proxy_connection(#{headers := Headers}) ->
    not is_map_key(<<"proxy-connection">>, Headers).

is_path(#{path := <<"/", _/binary>>}) -> true;
is_path(#{path := <<"*">>, method := <<"OPTIONS">>, qs := <<>>}) -> true;
is_path(_) -> false.

is_scheme(#{scheme := Scheme}) ->
    Scheme =:= <<"http">> orelse Scheme =:= <<"https">>.

is_authority(#{host := Host, port := Port}) ->
    Host =/= <<>> andalso is_integer(Port) andalso Port >= 0 andalso Port =< 65535.

%% RFC 9113 8.3.1: a Host that says something else is malformed; applications read it.
is_same_host(Req = #{headers := #{<<"host">> := Host}}) ->
    try cow_http_hd:parse_host(Host) of
        {Name, undefined} -> Name =:= authority(Req);
        {Name, Port} -> authority(Req#{host := Name, port := Port}) =:= authority(Req)
    catch
        error:_ -> false
    end;
is_same_host(_) ->
    true.

%% RFC 9113 8.2.1.
is_trimmed(#{headers := Headers}) ->
    lists:all(fun is_trimmed_value/1, maps:values(Headers)).

is_trimmed_value(<<>>) -> true;
is_trimmed_value(Value) -> not (is_space(binary:first(Value)) orelse is_space(binary:last(Value))).

is_space(Byte) -> Byte =:= $\s orelse Byte =:= $\t.

is_digits(<<>>) -> false;
is_digits(Text) -> is_digits_rest(Text).

is_digits_rest(<<C, Rest/binary>>) when C >= $0, C =< $9 -> is_digits_rest(Rest);
is_digits_rest(Rest) -> Rest =:= <<>>.

check_body_length(#{body_length := Length}, _) when is_integer(Length), Length > ?MAX_BODY ->
    {413, <<"the request body is too large">>};
check_body_length(#{body_length := Length}, #{max_body := Max})
        when is_integer(Length), is_integer(Max), Length > Max ->
    {413, <<"the request body is too large">>};
check_body_length(_, _) ->
    ok.
