%% SPDX-License-Identifier: Apache-2.0
%% The body of one request, by itself.
-module(hornbeam_request_body_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([no_body/1]).
-export([parts_are_held/1]).
-export([at_the_limit/1]).
-export([end_of_the_stream_behind_the_body/1]).
-export([continue_once/1]).
-export([continue_too_late/1]).
-export([waiting_for_what_is_on_its_way/1]).
-export([timer_looks_again/1]).
-export([clock_stops/1]).
-export([earlier_deadline/1]).
-export([rest_is_skipped/1]).
-export([rest_is_too_long_to_skip/1]).
-export([gathered/1]).
-export([reads_of_large_bodies/1]).

%% The transport of a connection.
-export([setopts/2]).

-define(WINDOW, 1000).
-define(MAX_BODY, 100).
-define(MAX_SKIPPED, 50).
-define(BODY_TIMEOUT_MS, 20).
-define(FOREVER_MS, 3600000).

all() ->
    [no_body, parts_are_held, at_the_limit, end_of_the_stream_behind_the_body, continue_once,
     continue_too_late, waiting_for_what_is_on_its_way, timer_looks_again,
     clock_stops, earlier_deadline, rest_is_skipped, rest_is_too_long_to_skip, gathered,
     reads_of_large_bodies].

%% All is there, nothing is asked for.
no_body(_) ->
    Request = request(#{}),
    Body = hornbeam_request_body:new(req(#{has_body => false, body_length => 0}), Request),
    ?assert(hornbeam_request_body:is_complete(Body)),
    ?assertEqual([], hornbeam_request_body:initial_flow(Request, Body)),
    ?assertMatch({<<>>, false, _}, hornbeam_request_body:take(Body)),
    ?assertEqual({[], Body}, hornbeam_request_body:waiting(0, false, Request, Body)),
    ?assertMatch({over, [stop], _}, hornbeam_request_body:finish(false, Request, Body)).

%% In their order, once.
parts_are_held(_) ->
    Body = hornbeam_request_body:hold(<<"b">>, hornbeam_request_body:hold(<<"a">>, body(#{}))),
    {Data, More, Taken} = hornbeam_request_body:take(Body),
    ?assertEqual({<<"ab">>, true}, {Data, More}),
    ?assertMatch({<<>>, true, _}, hornbeam_request_body:take(Taken)).

at_the_limit(_) ->
    Request = request(#{}),
    {part, Body} = receive_part(nofin, ?MAX_BODY, Request, body(#{body_length => undefined})),
    ?assertNot(hornbeam_request_body:is_complete(Body)),
    ?assertMatch({too_large, _}, receive_part(nofin, 1, Request, Body)),
    {part, Complete} = receive_part(fin, 0, Request, Body),
    ?assert(hornbeam_request_body:is_complete(Complete)).

%% HTTP/2: complete by its length; its stream is not reset before it has ended.
end_of_the_stream_behind_the_body(_) ->
    Request = request(#{version => 'HTTP/2', body_timeout => ?FOREVER_MS}),
    {part, Body} = receive_part(nofin, 10, Request, body(#{body_length => 10}, Request)),
    ?assert(hornbeam_request_body:is_complete(Body)),
    ?assertMatch({skipping, [], _}, hornbeam_request_body:finish(false, Request, Body)),
    {end_of_stream, Ended} = receive_part(fin, 0, Request, Body),
    ?assertMatch({over, [stop], _}, hornbeam_request_body:finish(false, Request, Ended)).

continue_once(_) ->
    Request = request(#{body_timeout => infinity}),
    Body = body(#{headers => #{<<"expect">> => <<"100-Continue">>}}),
    ?assert(hornbeam_request_body:expects_continue(Body)),
    {Commands, Asked} = hornbeam_request_body:ask(Request, Body),
    ?assertEqual([{inform, 100, #{}}], Commands),
    ?assertNot(hornbeam_request_body:expects_continue(Asked)),
    ?assertMatch({[], _}, hornbeam_request_body:ask(Request, Asked)).

%% Behind the head of the response nothing is said; nor is the connection used again.
continue_too_late(_) ->
    Request = request(#{body_timeout => infinity}),
    Body = body(#{headers => #{<<"expect">> => <<"100-continue">>}}),
    ?assertEqual({[], Body}, hornbeam_request_body:waiting(0, true, Request, Body)),
    ?assertMatch({over, [stop], _}, hornbeam_request_body:finish(false, Request, Body)).

%% An application that waits for what it is about to get does not start the client's clock.
waiting_for_what_is_on_its_way(_) ->
    Request = request(#{}),
    {part, Body} = receive_part(nofin, 5, Request, body(#{})),
    {[], Same} = hornbeam_request_body:waiting(4, false, Request, Body),
    ?assertEqual(Body, Same),
    {[], Waiting} = hornbeam_request_body:waiting(5, false, Request, Body),
    ?assertMatch({part, _}, hornbeam_request_body:timed_out(timer_name(), Request, Waiting)).

%% A part that comes in between sets the deadline anew, not the timer.
timer_looks_again(_) ->
    Request = request(#{}),
    {[], First} = hornbeam_request_body:ask(Request, body(#{})),
    FirstName = timer_name(),
    {Missing, Waiting} = hornbeam_test_wait:within(?BODY_TIMEOUT_MS, fun() ->
        {[], Second} = hornbeam_request_body:ask(Request, First),
        hornbeam_request_body:timed_out(FirstName, Request, Second)
    end),
    ?assertEqual(nothing, Missing),
    ?assertEqual(stale, hornbeam_request_body:timed_out(FirstName, Request, Waiting)),
    {part, Fired} = timed_out(Request, Waiting),
    ?assertEqual(stale, hornbeam_request_body:timed_out(FirstName, Request, Fired)).

%% Nobody waits any more: nothing is missing when the timer fires, and it is not started again.
clock_stops(_) ->
    Request = request(#{}),
    {[], Waiting} = hornbeam_request_body:ask(Request, body(#{})),
    Name = timer_name(),
    Stopped = hornbeam_request_body:stop_clock(Waiting),
    {nothing, Idle} = hornbeam_request_body:timed_out(Name, Request, Stopped),
    ok = hornbeam_request_body:close(Idle),
    {[], Again} = hornbeam_request_body:ask(Request, Idle),
    ?assertMatch({part, _}, hornbeam_request_body:timed_out(timer_name(), Request, Again)).

%% An earlier deadline than that which the timer looks at has a timer of its own.
earlier_deadline(_) ->
    Long = request(#{version => 'HTTP/2', body_timeout => ?FOREVER_MS}),
    {[], Waiting} = hornbeam_request_body:ask(Long, body(#{}, Long)),
    Request = request(#{version => 'HTTP/2'}),
    {[], Sooner} = hornbeam_request_body:ask(Request, Waiting),
    ?assertMatch({part, _}, hornbeam_request_body:timed_out(timer_name(), Request, Sooner)).

rest_is_skipped(_) ->
    Request = request(#{}),
    Body = body(#{body_length => ?MAX_SKIPPED}),
    {skipping, Commands, Skipping} = hornbeam_request_body:finish(false, Request, Body),
    ?assertEqual([{flow, ?MAX_SKIPPED}], Commands),
    ?assertMatch({part, _}, hornbeam_request_body:timed_out(timer_name(), Request, Skipping)).

%% Nor is one that closes the connection, or whose length is not known.
rest_is_too_long_to_skip(_) ->
    Request = request(#{}),
    [?assertMatch({over, [stop], _}, hornbeam_request_body:finish(Close, Request, body(Facts)))
     || {Close, Facts} <- [{false, #{body_length => ?MAX_SKIPPED + 1}},
                           {true, #{body_length => 1}},
                           {false, #{body_length => undefined}}]].

%% As much as may come unread is enough.
gathered(_) ->
    Request = request(#{max_body => infinity}),
    {part, Body} = receive_part(nofin, ?WINDOW - 1, Request, body(#{body_length => 2 * ?WINDOW})),
    ?assertNot(hornbeam_request_body:is_gathered(Request, Body)),
    {part, Full} = receive_part(nofin, 1, Request, Body),
    ?assert(hornbeam_request_body:is_gathered(Request, Full)).

%% Where an application takes a body of many reads, the socket is told to read more, once. Of a chunked
%% one nobody knows: it is read in parts of the listener's size.
reads_of_large_bodies(_) ->
    Request = (request(#{max_body => infinity}))#{connection := #{socket => self(),
                                                                  transport => ?MODULE}},
    Told = fun(Length, Credits) ->
        Body0 = body(#{body_length => Length}, Request),
        {part, Body1} = receive_part(nofin, 16384, Request, Body0),
        _ = lists:foldl(fun(Bytes, Body) ->
            {_, Credited} = hornbeam_request_body:credit(Bytes, Request, Body),
            Credited
        end, Body1, Credits),
        setopts_said()
    end,
    ?assertEqual([], Told(undefined, [8192, 8192])),
    ?assertEqual([], Told(49151, [16384])),
    %% It may be one that is never taken.
    ?assertEqual([], Told(1000000, [])),
    ?assertEqual([[{buffer, 131072}]], Told(49152, [8192, 8192])),
    %% For the connection's life.
    ?assertEqual([], Told(1000000, [16384])).

setopts(Socket, Options) ->
    Socket ! {setopts, Options},
    ok.

setopts_said() ->
    receive {setopts, Options} -> [Options | setopts_said()]
    after 0 -> []
    end.

%%% Helpers

req(Facts) ->
    maps:merge(#{version => 'HTTP/1.1', has_body => true, body_length => 90, headers => #{}}, Facts).

body(Facts) ->
    body(Facts, request(#{})).

body(Facts, Request) ->
    hornbeam_request_body:new(req(Facts), Request).

request(Facts) ->
    Server = maps:merge(#{window => ?WINDOW, max_body => ?MAX_BODY, max_skipped => ?MAX_SKIPPED,
                          body_timeout => ?BODY_TIMEOUT_MS}, maps:remove(version, Facts)),
    #{stream_id => 1, version => maps:get(version, Facts, 'HTTP/1.1'), method => <<"POST">>,
      server => Server, connection => #{}}.

receive_part(IsFin, Bytes, Request, Body) ->
    hornbeam_request_body:received(IsFin, binary:copy(<<"x">>, Bytes), Request, Body).

%% What its timer finds. That of a run that was held up may have been set as well.
timed_out(Request, Body) ->
    case hornbeam_request_body:timed_out(timer_name(), Request, Body) of
        stale -> timed_out(Request, Body);
        Result -> Result
    end.

timer_name() ->
    Self = self(),
    receive {{Self, 1}, {body_timeout, Name}} -> Name
    after 5000 -> error(no_timer)
    end.
