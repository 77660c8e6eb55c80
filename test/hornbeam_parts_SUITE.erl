%% SPDX-License-Identifier: Apache-2.0
-module(hornbeam_parts_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([small_ones_are_one_write/1]).
-export([large_ones_are_cut/1]).
-export([shape_does_not_matter/1]).
-export([closed_socket/1]).

-define(PART, 65536).
-define(MAX, 73728).

all() ->
    [small_ones_are_one_write, large_ones_are_cut, shape_does_not_matter, closed_socket].

init_per_testcase(_, Config) ->
    {ok, Listener} = gen_tcp:listen(0, [binary, {active, false}, {ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Listener),
    {ok, Socket} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]),
    {ok, Peer} = gen_tcp:accept(Listener),
    ok = gen_tcp:close(Listener),
    [{socket, Socket}, {peer, Peer} | Config].

end_per_testcase(_, Config) ->
    [gen_tcp:close(proplists:get_value(Name, Config)) || Name <- [socket, peer]].

%% What there is beside a part goes with it.
small_ones_are_one_write(Config) ->
    ?assertEqual({1, 3}, sent(<<"abc">>, Config)),
    Head = binary:copy(<<"h">>, 1000),
    ?assertEqual({1, ?PART + 1000}, sent([Head, crypto:strong_rand_bytes(?PART)], Config)),
    ?assertEqual({1, ?MAX}, sent(crypto:strong_rand_bytes(?MAX), Config)).

large_ones_are_cut(Config) ->
    ?assertEqual({2, ?PART}, sent(crypto:strong_rand_bytes(?MAX + 1), Config)),
    ?assertEqual({2, ?PART}, sent(crypto:strong_rand_bytes(2 * ?PART), Config)),
    ?assertEqual({17, ?PART}, sent(["head", crypto:strong_rand_bytes(16 * ?PART)], Config)).

%% Many small ones, large ones, and edges of parts within and between them.
shape_does_not_matter(Config) ->
    [begin
        Data = [<<>>, lists:duplicate(5000, <<"0123456789abc">>),
                [[], [crypto:strong_rand_bytes(?PART - 1000 + Size) | crypto:strong_rand_bytes(Size)]],
                $x, crypto:strong_rand_bytes(Size), <<>>],
        {Count, ?PART} = sent(Data, Config),
        ?assertEqual(ceil(iolist_size(Data) / ?PART), Count)
     end || Size <- [1, 535, 536, 537, ?PART, 3 * ?PART + 1]].

%% Nothing is written behind the part that could not be.
closed_socket(Config) ->
    Socket = proplists:get_value(socket, Config),
    ok = gen_tcp:shutdown(Socket, write),
    Data = binary:copy(<<"x">>, 3 * ?PART),
    ?assertMatch({error, _}, hornbeam_parts:send(ranch_tcp, Socket, Data)),
    %% The one that was tried.
    ?assertEqual({ok, [{send_oct, ?PART}]}, inet:getstat(Socket, [send_oct])).

%% How many writes that were, and the longest so far; the peer has got the same bytes.
sent(Data, Config) ->
    Socket = proplists:get_value(socket, Config),
    Peer = proplists:get_value(peer, Config),
    {ok, [{send_cnt, Before}]} = inet:getstat(Socket, [send_cnt]),
    Expected = iolist_to_binary(Data),
    Reader = self(),
    Sender = spawn_link(fun() ->
        Reader ! {self(), hornbeam_parts:send(ranch_tcp, Socket, Data)}
    end),
    ?assertEqual({ok, Expected}, gen_tcp:recv(Peer, byte_size(Expected))),
    receive {Sender, Result} -> ?assertEqual(ok, Result) end,
    {ok, [{send_cnt, After}, {send_max, Max}]} = inet:getstat(Socket, [send_cnt, send_max]),
    {After - Before, Max}.
