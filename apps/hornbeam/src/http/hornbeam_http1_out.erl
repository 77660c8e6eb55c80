%% SPDX-License-Identifier: Apache-2.0

%% @private The bytes of a response on HTTP/1.1: its head, and the parts of its body as RFC 9112
%% frames them.
%%
%% Pure. Keeps count of a body whose length was announced: more than that would be taken for the next
%% response, and less leaves the client waiting for the rest.
-module(hornbeam_http1_out).

%% API
-export([head/2]).
-export([start/4]).
-export([part/3]).
-export([written/2]).
-export([trailers/3]).

-export_type([out/0]).

-type out() :: nothing | {sized, Left :: non_neg_integer()} | chunked | bodiless | raw | complete.
%% What has been written of a response, and how its body goes on. `bodiless': what is given is not
%% sent, as after HEAD. `raw': parts go out as they are, as after 101.

%% On the way of every request.
-compile({inline, [framed/2]}).

%% @doc A head as it stands.
-spec head(cowboy:http_status(), cowboy:http_headers()) -> iolist().
head(Status, Headers = #{<<"set-cookie">> := Cookies}) ->
    Lines = maps:to_list(maps:remove(<<"set-cookie">>, Headers)),
    cow_http:response(Status, 'HTTP/1.1', Lines ++ [{<<"set-cookie">>, Each} || Each <- Cookies]);
head(Status, Headers) ->
    cow_http:response(Status, 'HTTP/1.1', maps:to_list(Headers)).

%% @doc The head of a response whose body comes in parts.
-spec start(cowboy:http_status(), cowboy:http_headers(), Method :: binary(),
            TakesTrailers :: boolean()) -> {iodata(), out()}.
start(Status, Headers0, Method, TakesTrailers) ->
    Headers = case TakesTrailers of
        true -> Headers0;
        false -> maps:remove(<<"trailer">>, Headers0)
    end,
    Code = cow_http:status_to_integer(Status),
    case {hornbeam_response:has_body(Code, Method), Headers} of
        {false, _} ->
            {head(Status, of_get(Code, Headers)), bodiless};
        {true, #{<<"content-length">> := Length}} ->
            {head(Status, Headers), {sized, cow_http_hd:parse_content_length(Length)}};
        {true, _} ->
            {head(Status, Headers#{<<"transfer-encoding">> => <<"chunked">>}), chunked}
    end.

%% RFC 9110 9.3.2: HEAD has the headers of GET.
of_get(Code, Headers) ->
    case not is_map_key(<<"content-length">>, Headers)
            andalso hornbeam_response:has_body(Code, <<"GET">>) of
        true -> Headers#{<<"transfer-encoding">> => <<"chunked">>};
        false -> Headers
    end.

%% @doc A part of the body. `too_large': it has more than was announced, and must not be sent.
-spec part(cowboy_stream:fin(), iodata(), out()) -> {iodata(), out()} | too_large.
part(fin, <<>>, {sized, 0}) ->
    {[], complete};
part(IsFin, Data, {sized, Left}) ->
    case Left - iolist_size(Data) of
        Rest when Rest < 0 -> too_large;
        0 when IsFin =:= fin -> {Data, complete};
        Rest -> {Data, {sized, Rest}}
    end;
part(nofin, Data, Out) ->
    {framed(Data, Out), Out};
part(fin, Data, chunked) ->
    {[framed(Data, chunked), cow_http_te:last_chunk()], complete};
part(fin, Data, Out) ->
    {framed(Data, Out), complete}.

framed(_, bodiless) -> [];
framed(Data, raw) -> Data;
%% An empty chunk would be the last one.
framed(<<>>, chunked) -> [];
framed(Data, chunked) -> cow_http_te:chunk(Data).

%% @doc So much of the body has gone out by another way. `too_large': more than was announced has.
-spec written(Bytes :: non_neg_integer(), out()) -> {iodata(), out()} | too_large.
written(Bytes, {sized, Left}) when Bytes =< Left -> {[], {sized, Left - Bytes}};
written(_, _) -> too_large.

%% @doc The end of the body with what the application has to say behind it, if the client takes that.
-spec trailers(cowboy:http_headers(), TakesTrailers :: boolean(), out()) -> {iodata(), out()}.
trailers(Trailers, true, chunked) ->
    {[<<"0\r\n">>, cow_http:headers(maps:to_list(Trailers)), <<"\r\n">>], complete};
trailers(_, false, chunked) ->
    {cow_http_te:last_chunk(), complete};
trailers(_, _, Out) when Out =:= bodiless; Out =:= {sized, 0} ->
    {[], complete};
trailers(_, _, Out) ->
    {[], Out}.
