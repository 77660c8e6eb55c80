%% SPDX-License-Identifier: Apache-2.0

%% @private From what Python sends to the headers that Cowboy writes.
%%
%% Pure but for the clock's date. Cowboy takes headers as a map, with one exception for Set-Cookie.
%% Other names that occur more than once keep their own lines on HTTP/1: the value carries a line
%% break and the name again. It does not look at values, and the worker lets no line break
%% through, so nothing but this module can make one. On HTTP/2 the values are joined (RFC 9110 5.3).
-module(hornbeam_response).

%% API
-export([defaults/1]).
-export([headers/3]).
-export([trailers/1]).
-export([whole/4]).
-export([streamed/2]).
-export([sized/3]).
-export([has_body/2]).
-export([status/1]).
-export([error/3]).

-export_type([defaults/0]).

-type defaults() :: #{server_header := binary() | undefined, date_header := boolean(), _ => _}.

%% @doc What the options say of the headers that are added.
-spec defaults(hornbeam_config:config()) -> defaults().
defaults(#{server_header := <<>>, date_header := Date}) ->
    #{server_header => undefined, date_header => Date};
defaults(#{server_header := Text, date_header := Date}) ->
    #{server_header => Text, date_header => Date}.

%% @doc Headers for Cowboy, with Date and Server where the application has not set them.
-spec headers(hornbeam_protocol:headers(), cowboy:http_version(), defaults()) ->
    cowboy:http_headers().
headers(Headers, Version, Defaults) ->
    maps:merge(default_headers(Defaults), fold(Headers, Version, #{})).

%% @doc Informational headers and trailers: nothing is added.
-spec trailers(hornbeam_protocol:headers()) -> cowboy:http_headers().
trailers(Headers) ->
    fold(Headers, 'HTTP/2', #{}).

%% @doc The command for a response that is there as a whole. Content-Length is added where it
%% belongs (RFC 9110 8.6), the body taken away where there can be none.
-spec whole(Status, cowboy:http_headers(), Body :: binary(), Method :: binary()) ->
    {response, cowboy:http_status(), cowboy:http_headers(), binary()} when Status :: 100..999.
whole(204, Headers, _Body, _Method) ->
    {response, 204, maps:remove(<<"content-length">>, Headers), <<>>};
whole(304, Headers, _Body, _Method) ->
    {response, 304, Headers, <<>>};
whole(Status, Headers, Body, Method) ->
    WithLength = case Headers of
        #{<<"content-length">> := _} -> Headers;
        %% What GET would have is not known.
        #{} when Method =:= <<"HEAD">>, Body =:= <<>> -> Headers;
        #{} -> Headers#{<<"content-length">> => integer_to_binary(byte_size(Body))}
    end,
    case has_body(Status, Method) of
        true -> {response, status(Status), WithLength, Body};
        false -> {response, status(Status), WithLength, <<>>}
    end.

%% @doc The headers of a response whose body comes in parts: 204 has no Content-Length.
-spec streamed(Status :: 100..999, cowboy:http_headers()) -> cowboy:http_headers().
streamed(204, Headers) -> maps:remove(<<"content-length">>, Headers);
streamed(_, Headers) -> Headers.

%% @doc The headers of a response whose body is of that length, also where it is not sent.
-spec sized(Status :: 100..999, cowboy:http_headers(), Bytes :: non_neg_integer()) ->
    cowboy:http_headers().
sized(204, Headers, _) -> Headers;
sized(_, Headers, Bytes) -> Headers#{<<"content-length">> => integer_to_binary(Bytes)}.

%% @doc Whether a response of this status to this method has a body (RFC 9112 6.3).
-spec has_body(Status :: 100..999, Method :: binary()) -> boolean().
has_body(_, <<"HEAD">>) -> false;
has_body(204, _) -> false;
has_body(304, _) -> false;
has_body(_, _) -> true.

%% @doc A status as Cowboy takes it: cowlib has no text for numbers that nobody has registered, and
%% falls over them. The text may be empty, the space before it not (RFC 9112 4).
-spec status(100..999) -> cowboy:http_status().
status(Status) when Status =< 103; Status >= 200, Status =< 208; Status >= 300, Status =< 308;
        Status >= 400, Status =< 418; Status >= 500, Status =< 508 ->
    Status;
status(Status) ->
    case lists:member(Status, [226, 421, 422, 423, 424, 425, 426, 428, 429, 431, 451, 510, 511]) of
        true -> Status;
        false -> <<(integer_to_binary(Status))/binary, " ">>
    end.

%% @doc A plain answer of the server itself.
-spec error(Status :: 300..599, Text :: binary(), defaults()) ->
    {response, 300..599, cowboy:http_headers(), binary()}.
error(Status, Text, Defaults) ->
    Body = <<Text/binary, "\n">>,
    Headers = default_headers(Defaults),
    {response, Status, Headers#{
        <<"content-type">> => <<"text/plain; charset=utf-8">>,
        <<"content-length">> => integer_to_binary(byte_size(Body))
    }, Body}.

fold([{Name, Value} | Rest], Version, Map) ->
    fold(Rest, Version, add(Name, Value, Version, Map));
fold([], _, Map) ->
    case Map of
        #{<<"set-cookie">> := Cookies} -> Map#{<<"set-cookie">> := lists:reverse(Cookies)};
        #{} -> Map
    end.

add(<<"set-cookie">>, Value, _, Map) ->
    Map#{<<"set-cookie">> => [Value | maps:get(<<"set-cookie">>, Map, [])]};
%% RFC 9113 8.2.2: connection-specific fields do not exist on HTTP/2.
add(Name, _Value, 'HTTP/2', Map) when Name =:= <<"connection">>; Name =:= <<"keep-alive">>;
        Name =:= <<"proxy-connection">>; Name =:= <<"upgrade">> ->
    Map;
add(Name, Value, Version, Map) ->
    case Map of
        #{Name := Earlier} -> Map#{Name := repeated(Name, Earlier, Value, Version)};
        #{} -> Map#{Name => Value}
    end.

repeated(Name, Earlier, Value, Version) ->
    case Version =:= 'HTTP/2' orelse is_joined(Name) of
        true -> [Earlier, <<", ">>, Value];
        false -> [Earlier, <<"\r\n">>, Name, <<": ">>, Value]
    end.

%% Cowboy reads these itself.
is_joined(<<"connection">>) -> true;
is_joined(<<"trailer">>) -> true;
is_joined(_) -> false.

default_headers(#{server_header := Server, date_header := WithDate}) ->
    Headers = case Server of
        undefined -> #{};
        _ -> #{<<"server">> => Server}
    end,
    case WithDate of
        true -> Headers#{<<"date">> => cowboy_clock:rfc1123()};
        false -> Headers
    end.
