%% SPDX-License-Identifier: Apache-2.0

%% @private The head of a usual HTTP/1.1 request, taken apart without a copy.
%%
%% Pure. Knows what nearly all clients send, and nothing else: whatever is out of the ordinary is
%% `unusual', and for Cowboy to judge, whose parser is the measure here: of what this module takes,
%% Cowboy makes the same. Names and values are parts of the bytes that were received, where Cowboy
%% appends them byte by byte.
%%
%% Usual is a method of {@link method/1}, a path with or without a query (RFC 9112 3.2.1), HTTP/1.1,
%% lines that end in CRLF, one host that is a name or an IPv4 address, names that occur once, no
%% framing but Content-Length, and no header that changes what the connection is.
-module(hornbeam_head).

%% API
-export([parse/2]).

-export_type([head/0]).

-type head() :: #{
    method := binary(),
    path := binary(),
    qs := binary(),
    %% Names in lower case.
    headers := cowboy:http_headers(),
    body_length := non_neg_integer()
}.
%% As in hornbeam_request:incoming().

-define(VERSION, "HTTP/1.1\r\n").
%% Names that are longer are for Cowboy, which has a limit.
-define(MAX_NAME_BYTES, 64).
%% So are bodies that do not come in a few parts.
-define(MAX_LENGTH_DIGITS, 6).

%% Of a value: neither CR, LF nor NUL among four bytes, in half the time of one after the other.
%% Nothing below 14 is, where the subtraction sets no top bit that was not there.
-define(IS_PLAIN(Four), ((Four - 16#0E0E0E0E) band (bnot Four) band 16#80808080 =:= 0)).

%% What stays the same while a head is gone through.
-record(head, {
    bytes :: binary(),
    method :: binary(),
    path = <<>> :: binary(),
    qs = <<>> :: binary(),
    max_headers :: pos_integer()
}).

%% @doc Take the head apart that these bytes begin with. `Behind' is what follows it. `more': what is
%% there is the beginning of a usual one.
-spec parse(binary(), MaxHeaders :: pos_integer()) ->
    {ok, head(), Behind :: binary()} | more | unusual.
parse(Bytes, MaxHeaders) ->
    case method(Bytes) of
        {Method, Target} ->
            Head = #head{bytes = Bytes, method = Method, max_headers = MaxHeaders},
            target(Target, byte_size(Method) + 1, Head);
        unusual ->
            unusual
    end.

method(<<"GET ", Rest/binary>>) -> {<<"GET">>, Rest};
method(<<"POST ", Rest/binary>>) -> {<<"POST">>, Rest};
method(<<"PUT ", Rest/binary>>) -> {<<"PUT">>, Rest};
method(<<"HEAD ", Rest/binary>>) -> {<<"HEAD">>, Rest};
method(<<"PATCH ", Rest/binary>>) -> {<<"PATCH">>, Rest};
method(<<"DELETE ", Rest/binary>>) -> {<<"DELETE">>, Rest};
method(<<"OPTIONS ", Rest/binary>>) -> {<<"OPTIONS">>, Rest};
method(_) -> unusual.

%%% The request line; `From' is where in the bytes a part begins, `Size' what was gone through of it

target(<<$/, Rest/binary>>, From, Head) -> path(Rest, From, 1, Head);
target(<<>>, _, _) -> more;
target(_, _, _) -> unusual.

path(<<C, Rest/binary>>, From, Size, Head) when C > $\s, C < 127, C =/= $?, C =/= $# ->
    path(Rest, From, Size + 1, Head);
path(<<$\s, Rest/binary>>, From, Size, Head = #head{bytes = Bytes}) ->
    version(Rest, From + Size + 1, Head#head{path = binary_part(Bytes, From, Size)});
path(<<$?, Rest/binary>>, From, Size, Head = #head{bytes = Bytes}) ->
    query(Rest, From + Size + 1, 0, Head#head{path = binary_part(Bytes, From, Size)});
path(<<>>, _, _, _) -> more;
path(_, _, _, _) -> unusual.

query(<<C, Rest/binary>>, From, Size, Head) when C > $\s, C < 127, C =/= $# ->
    query(Rest, From, Size + 1, Head);
query(<<$\s, Rest/binary>>, From, Size, Head = #head{bytes = Bytes}) ->
    version(Rest, From + Size + 1, Head#head{qs = binary_part(Bytes, From, Size)});
query(<<>>, _, _, _) -> more;
query(_, _, _, _) -> unusual.

version(<<?VERSION, Rest/binary>>, From, Head) ->
    line(Rest, From + length(?VERSION), [], 0, Head);
version(Rest, _, _) ->
    case binary:longest_common_prefix([Rest, <<?VERSION>>]) =:= byte_size(Rest) of
        true -> more;
        false -> unusual
    end.

%%% Header lines; `Lines' so far, which are `Count'

line(<<"\r\n", Behind/binary>>, _, Lines, Count, Head) ->
    complete(maps:from_list(Lines), Count, Behind, Head);
line(Rest, _, _, _, _) when Rest =:= <<>>; Rest =:= <<"\r">> ->
    more;
line(_, _, _, Count, #head{max_headers = MaxHeaders}) when Count >= MaxHeaders ->
    unusual;
line(Rest, From, Lines, Count, Head) ->
    name(Rest, From, 0, Lines, Count, Head).

name(<<C, Rest/binary>>, From, Size, Lines, Count, Head)
        when C >= $a, C =< $z; C =:= $-; C >= $A, C =< $Z; C >= $0, C =< $9; C =:= $_ ->
    name(Rest, From, Size + 1, Lines, Count, Head);
name(_, _, Size, _, _, _) when Size =:= 0; Size > ?MAX_NAME_BYTES ->
    unusual;
name(<<": ", Rest/binary>>, From, Size, Lines, Count, Head = #head{bytes = Bytes}) ->
    Name = lower(binary_part(Bytes, From, Size)),
    value(Rest, From + Size + 2, 0, Name, Lines, Count, Head);
name(Rest, _, _, _, _, _) when Rest =:= <<>>; Rest =:= <<":">> ->
    more;
name(_, _, _, _, _, _) ->
    unusual.

value(<<Four:32, Rest/binary>>, From, Size, Name, Lines, Count, Head) when ?IS_PLAIN(Four) ->
    value(Rest, From, Size + 4, Name, Lines, Count, Head);
value(<<"\r\n", Rest/binary>>, From, Size, Name, Lines, Count, Head = #head{bytes = Bytes}) ->
    Value = binary_part(Bytes, From, Size),
    case is_trimmed(Value) of
        true -> line(Rest, From + Size + 2, [{Name, Value} | Lines], Count + 1, Head);
        false -> unusual
    end;
value(<<C, Rest/binary>>, From, Size, Name, Lines, Count, Head)
        when C =/= $\r, C =/= $\n, C =/= 0 ->
    value(Rest, From, Size + 1, Name, Lines, Count, Head);
value(Rest, _, _, _, _, _, _) when Rest =:= <<>>; Rest =:= <<"\r">> ->
    more;
value(_, _, _, _, _, _, _) ->
    unusual.

is_trimmed(<<>>) -> true;
is_trimmed(Value) -> not (is_space(binary:first(Value)) orelse is_space(binary:last(Value))).

is_space(C) -> C =:= $\s orelse C =:= $\t.

%% Names as most clients write them are known at a glance.
lower(<<"Host">>) -> <<"host">>;
lower(<<"User-Agent">>) -> <<"user-agent">>;
lower(<<"Accept">>) -> <<"accept">>;
lower(<<"Accept-Encoding">>) -> <<"accept-encoding">>;
lower(<<"Accept-Language">>) -> <<"accept-language">>;
lower(<<"Authorization">>) -> <<"authorization">>;
lower(<<"Cache-Control">>) -> <<"cache-control">>;
lower(<<"Connection">>) -> <<"connection">>;
lower(<<"Content-Length">>) -> <<"content-length">>;
lower(<<"Content-Type">>) -> <<"content-type">>;
lower(<<"Cookie">>) -> <<"cookie">>;
lower(<<"If-None-Match">>) -> <<"if-none-match">>;
lower(<<"Origin">>) -> <<"origin">>;
lower(<<"Pragma">>) -> <<"pragma">>;
lower(<<"Priority">>) -> <<"priority">>;
lower(<<"Referer">>) -> <<"referer">>;
lower(<<"Sec-Fetch-Dest">>) -> <<"sec-fetch-dest">>;
lower(<<"Sec-Fetch-Mode">>) -> <<"sec-fetch-mode">>;
lower(<<"Sec-Fetch-Site">>) -> <<"sec-fetch-site">>;
lower(<<"Sec-Fetch-User">>) -> <<"sec-fetch-user">>;
lower(<<"Upgrade-Insecure-Requests">>) -> <<"upgrade-insecure-requests">>;
lower(<<"X-Forwarded-For">>) -> <<"x-forwarded-for">>;
lower(<<"X-Forwarded-Host">>) -> <<"x-forwarded-host">>;
lower(<<"X-Forwarded-Proto">>) -> <<"x-forwarded-proto">>;
lower(<<"X-Real-IP">>) -> <<"x-real-ip">>;
lower(<<"X-Request-ID">>) -> <<"x-request-id">>;
lower(<<"X-Requested-With">>) -> <<"x-requested-with">>;
lower(Name) -> lower(Name, Name).

lower(<<C, Rest/binary>>, Name) when C < $A; C > $Z -> lower(Rest, Name);
lower(<<>>, Name) -> Name;
lower(_, Name) -> << <<(lower_byte(C))>> || <<C>> <= Name >>.

lower_byte(C) when C >= $A, C =< $Z -> C + 32;
lower_byte(C) -> C.

%%% The whole of it

%% Where a name has come twice there are fewer of them than lines: Cowboy joins such.
complete(Headers, Count, Behind, Head) when map_size(Headers) =:= Count ->
    case is_plain(Headers) andalso body_length(Headers) of
        Length when is_integer(Length) ->
            #head{method = Method, path = Path, qs = Query} = Head,
            {ok, #{method => Method, path => Path, qs => Query, headers => Headers,
                   body_length => Length}, Behind};
        _ ->
            unusual
    end;
complete(_, _, _, _) ->
    unusual.

%% Nothing that changes the framing, the connection, or what may be sent on it.
is_plain(#{<<"transfer-encoding">> := _}) -> false;
is_plain(#{<<"upgrade">> := _}) -> false;
is_plain(#{<<"expect">> := _}) -> false;
is_plain(#{<<"te">> := _}) -> false;
is_plain(#{<<"host">> := Host, <<"connection">> := Options}) ->
    (Options =:= <<"keep-alive">> orelse Options =:= <<"Keep-Alive">>) andalso is_host(Host, 0);
is_plain(#{<<"host">> := Host}) -> is_host(Host, 0);
is_plain(_) -> false.

is_host(<<C, Rest/binary>>, Size)
        when C >= $a, C =< $z; C >= $0, C =< $9; C >= $A, C =< $Z; C =:= $.; C =:= $-; C =:= $_ ->
    is_host(Rest, Size + 1);
is_host(<<>>, Size) ->
    Size > 0;
is_host(<<$:, Digits/binary>>, Size) when Size > 0, byte_size(Digits) =< 5 ->
    is_port_number(number(Digits));
is_host(_, _) ->
    false.

is_port_number(Port) -> is_integer(Port) andalso Port > 0 andalso Port =< 65535.

body_length(#{<<"content-length">> := <<"0">>}) -> 0;
%% `00': to Cowboy a body that never ends.
body_length(#{<<"content-length">> := <<$0, _/binary>>}) -> unusual;
body_length(#{<<"content-length">> := Digits}) when byte_size(Digits) =< ?MAX_LENGTH_DIGITS ->
    number(Digits);
body_length(#{<<"content-length">> := _}) -> unusual;
body_length(_) -> 0.

number(<<>>) -> unusual;
number(Digits) -> number(Digits, 0).

number(<<C, Rest/binary>>, N) when C >= $0, C =< $9 -> number(Rest, N * 10 + C - $0);
number(<<>>, N) -> N;
number(_, _) -> unusual.
