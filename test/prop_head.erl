%% SPDX-License-Identifier: Apache-2.0
%% Cowboy is the measure of what hornbeam_head takes.
-module(prop_head).

-include("hornbeam_proper.hrl").

-import(proper_types, [binary/0, byte/0, elements/1, frequency/1, integer/2, list/1, oneof/1]).
-import(proper_types, [range/2, vector/2]).

-export([prop_what_is_taken_is_what_cowboy_takes/0]).
-export([prop_usual_heads_are_taken/0]).
-export([prop_a_usual_head_is_waited_for/0]).

-define(MAX_HEADERS, 12).

%% Whatever comes: what is taken is taken in the same way, and for what is waited for Cowboy waits.
prop_what_is_taken_is_what_cowboy_takes() ->
    ?FORALL(Bytes, mutated(), begin
        {Told, End} = hornbeam_test_transport:requests(Bytes, #{max_headers => ?MAX_HEADERS}),
        case hornbeam_head:parse(Bytes, ?MAX_HEADERS) of
            {ok, Head, Behind} -> is_same(Head, Behind, Told);
            more -> {Told, End} =:= {[], open};
            unusual -> true
        end
    end).

%% The speed of it is not lost by accident.
prop_usual_heads_are_taken() ->
    ?FORALL({{Method, Path, Query, Lines}, Behind}, {usual(), binary()}, begin
        Text = text({Method, Path, Query, Lines}),
        {ok, Head, Rest} = hornbeam_head:parse(<<Text/binary, Behind/binary>>, ?MAX_HEADERS),
        #{method := HeadMethod, path := HeadPath, qs := HeadQuery, headers := Headers} = Head,
        {HeadMethod, HeadPath, HeadQuery} =:= {Method, Path, Query} andalso Rest =:= Behind andalso
            lists:sort(maps:to_list(Headers)) =:=
                lists:sort([{string:lowercase(Name), Value} || {Name, Value} <- Lines])
    end).

%% As far as it has come.
prop_a_usual_head_is_waited_for() ->
    ?FORALL({Usual, Share}, {usual(), range(0, 99)}, begin
        Text = text(Usual),
        Method = byte_size(element(1, Usual)) + 1,
        Size = Method + (byte_size(Text) - Method) * Share div 100,
        hornbeam_head:parse(binary_part(Text, 0, Size), ?MAX_HEADERS) =:= more
    end).

%% Internal.

is_same(#{body_length := Length} = Head, Behind, [{request, Req} | Told]) ->
    Same = maps:with([method, path, qs, headers, body_length], Req) =:= Head,
    Body = binary_part(Behind, 0, min(Length, byte_size(Behind))),
    Same andalso maps:get(version, Req) =:= 'HTTP/1.1' andalso
        maps:get(has_body, Req) =:= (Length > 0) andalso
        (Length =:= 0 orelse Body =:= << <<Data/binary>> || {data, _, Data} <- Told >>);
is_same(_, _, _) ->
    false.

%% What clients send, what is like it, and what is not.
mutated() ->
    ?LET(Text, oneof([text_of_usual(), text_of_odd()]),
        frequency([
            {2, Text},
            {3, ?LET(Behind, oneof([binary(), text_of_usual()]), <<Text/binary, Behind/binary>>)},
            {2, ?LET(Size, range(0, byte_size(Text)), binary_part(Text, 0, Size))},
            {6, at(Text, fun(Before, After) ->
                ?LET(Piece, piece(), <<Before/binary, Piece/binary, After/binary>>)
            end)},
            {6, at(Text, fun
                (Before, <<_, After/binary>>) ->
                    ?LET(Piece, piece(), <<Before/binary, Piece/binary, After/binary>>);
                (Before, <<>>) ->
                    Before
            end)},
            {2, at(Text, fun
                (Before, <<_, After/binary>>) -> <<Before/binary, After/binary>>;
                (Before, <<>>) -> Before
            end)}
        ])).

at(Text, Change) ->
    ?LET(Size, range(0, byte_size(Text)), begin
        <<Before:Size/binary, After/binary>> = Text,
        Change(Before, After)
    end).

piece() ->
    oneof([
        ?LET(Byte, byte(), <<Byte>>),
        elements([<<"\r\n">>, <<"\r\n\r\n">>, <<"\n">>, <<"\r">>, <<" ">>, <<"\t">>, <<0>>, <<":">>,
                  <<": ">>, <<"#">>, <<"?">>, <<"%">>, <<",">>, <<"+">>, <<"0">>, <<"\r\n ">>,
                  <<"Host: a\r\n">>, <<"TE: trailers\r\n">>, <<"Content-Length: 3\r\n">>,
                  <<"Transfer-Encoding: chunked\r\n">>, <<"Connection: close\r\n">>,
                  <<"Expect: 100-continue\r\n">>, <<"Cookie: z=1\r\n">>])
    ]).

text_of_usual() ->
    ?LET(Usual, usual(), text(Usual)).

text_of_odd() ->
    ?LET({{Method, Path, Query, Lines}, Odd, Order}, {usual(), list(odd_line()), byte()},
        text({Method, Path, Query, mixed(Lines, Odd, Order)})).

mixed(Lines, Odd, Order) when Order rem 2 =:= 0 -> Lines ++ Odd;
mixed(Lines, Odd, _) -> Odd ++ Lines.

text({Method, Path, Query, Lines}) ->
    Target = case Query of
        <<>> -> Path;
        _ -> [Path, $?, Query]
    end,
    iolist_to_binary([Method, " ", Target, " HTTP/1.1\r\n",
                      [[Name, ": ", Value, "\r\n"] || {Name, Value} <- Lines], "\r\n"]).

usual() ->
    ?LET({Method, Path, Query, Host, Lines},
         {elements([<<"GET">>, <<"POST">>, <<"PUT">>, <<"HEAD">>, <<"PATCH">>, <<"DELETE">>,
                    <<"OPTIONS">>]),
          path(), of_bytes("abcXYZ019-._~!$&'()*+,;=:@/?%"),
          elements([<<"localhost">>, <<"127.0.0.1:8000">>, <<"Example.ORG">>, <<"a_b-c:65535">>]),
          list(usual_line())},
         {Method, Path, Query, lists:sublist(once([{<<"Host">>, Host} | Lines]), ?MAX_HEADERS)}).

path() ->
    ?LET(Rest, of_bytes("abcXYZ019-._~!$&'()*+,;=:@/%"), <<$/, Rest/binary>>).

usual_line() ->
    oneof([
        {elements([<<"User-Agent">>, <<"accept">>, <<"Accept-Encoding">>, <<"COOKIE">>,
                   <<"X-Forwarded-For">>, <<"x_y">>, <<"Sec-Fetch-Mode">>, <<"X-Real-IP">>,
                   <<"If-None-Match">>, <<"a">>, <<"X-1">>]), value()},
        {<<"Content-Length">>, ?LET(Length, integer(0, 70), integer_to_binary(Length))},
        {<<"Connection">>, elements([<<"keep-alive">>, <<"Keep-Alive">>])}
    ]).

odd_line() ->
    oneof([
        {elements([<<"Host">>, <<"Connection">>, <<"Content-Length">>, <<"Transfer-Encoding">>,
                   <<"Upgrade">>, <<"TE">>, <<"Expect">>, <<"a!b">>, <<"">>, <<"a b">>,
                   <<"HTTP2-Settings">>]),
         oneof([value(), elements([<<"close">>, <<"chunked">>, <<"00">>, <<"-1">>, <<"1, 1">>,
                                   <<"h2c">>, <<"localhost:0">>, <<"[::1]:80">>, <<":80">>,
                                   <<"a:+1">>, <<"a:99999">>, <<"a:1:2">>, <<"9999999">>])])},
        usual_line()
    ]).

value() ->
    ?LET(Text, of_bytes("abc XYZ019;=\"/*\t,:\\" ++ [128, 195, 255, 1, 127]), trimmed(Text)).

trimmed(Text) ->
    iolist_to_binary(string:trim(binary_to_list(Text), both, " \t")).

of_bytes(Bytes) ->
    ?LET(Size, range(0, 20), ?LET(Chosen, vector(Size, elements(Bytes)), list_to_binary(Chosen))).

%% Of lines with the same name the first.
once(Lines) ->
    {Once, _} = lists:foldl(fun({Name, _} = Line, {Kept, Seen}) ->
        Lower = string:lowercase(Name),
        case lists:member(Lower, Seen) of
            true -> {Kept, Seen};
            false -> {[Line | Kept], [Lower | Seen]}
        end
    end, {[], []}, Lines),
    lists:reverse(Once).
